"""Groups by predicate: one for each tensor it holds for, whatever its name."""

from __future__ import annotations

import numpy as np
import optimd
import pytest
from optimdpb.specs import JobSpec, Layout, Sync, Tensor

PARAMETERS = {
    "in_proj_weight": np.zeros((2, 2), np.float32),
    "in_proj_bias": np.zeros(2, np.float32),
    "a[0]*": np.zeros(2, np.float32),
    "a0x": np.zeros((2, 2), np.float32),
    "bn.mean": np.zeros(2, np.float32),
}
BUFFERS = ["bn.mean"]


def is_vector(_: str, array: np.ndarray) -> bool:
    return array.ndim < 2


def tensor_groups(groups: list[optimd.Group]) -> dict[str, int | None]:
    kinds = {name: "buffer" if name in BUFFERS else "trainable" for name in PARAMETERS}
    layout = Layout(tuple(Tensor(name, array.shape, kinds[name]) for name, array in PARAMETERS.items()))
    spec = JobSpec(layout, optimd.AdamW(0.1), Sync(1), groups=tuple(groups))
    return dict(zip(layout.names, spec.tensor_groups, strict=True))


def test_a_predicate_on_the_shape_finds_vectors_alone() -> None:
    found = optimd.groups(PARAMETERS, is_vector, buffers=BUFFERS, weight_decay=0.0)
    assert tensor_groups(found) == {
        "in_proj_weight": None,
        "in_proj_bias": 0,
        "a[0]*": 1,
        "a0x": None,
        "bn.mean": None,
    }
    assert {group.hyper_parameters for group in found} == {(("weight_decay", 0.0),)}


def test_a_predicate_on_the_name_and_the_settings_of_a_group() -> None:
    (found,) = optimd.groups(PARAMETERS, lambda name, _: name == "a0x", frozen=True, lr_multiplier=2.0)
    assert (found.pattern, found.frozen, found.lr_multiplier) == ("a0x", True, 2.0)


def test_a_predicate_that_holds_for_nothing_gives_no_group() -> None:
    assert optimd.groups(PARAMETERS, lambda *_: False, weight_decay=0.0) == []


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(optimd.InvalidSpec, match="lr_multiplier"):
        optimd.groups(PARAMETERS, is_vector, lr_multiplier=-1.0)
