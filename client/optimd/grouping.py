"""Groups of tensors by what they are instead of by a pattern on their names."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Mapping
from typing import Any

from optimdpb.specs import Group


def groups(
    parameters: Mapping[str, Any],
    predicate: Callable[[str, Any], bool],
    *,
    buffers: Collection[str] = (),
    lr_multiplier: float = 1.0,
    frozen: bool = False,
    **hyper_parameters: float,
) -> list[Group]:
    """A Group for each of the parameters that predicate(name, array) holds for, to be given to ensure_job(groups=...).

    Decay on matrices alone: groups(parameters, lambda name, array: array.ndim < 2, weight_decay=0.0). buffers: as for
    ensure_job(): they are not trained and in no group. The rest: as for Group.
    """
    return [
        Group(glob.escape(name), lr_multiplier=lr_multiplier, frozen=frozen, **hyper_parameters)
        for name, array in parameters.items()
        if name not in buffers and predicate(name, array)
    ]
