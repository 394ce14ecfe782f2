"""Groups of tensors by what a pattern on their names and their number of dimensions cannot say."""

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

    Such as groups(parameters, lambda name, array: array.size < 100, weight_decay=0.0); where a pattern and a number of
    dimensions will do, Group alone is shorter. buffers: as for ensure_job(): they are not trained and in no group. The
    rest: as for Group.
    """
    settings: Any = hyper_parameters
    return [
        Group(glob.escape(name), lr_multiplier=lr_multiplier, frozen=frozen, **settings)
        for name, array in parameters.items()
        if name not in buffers and predicate(name, array)
    ]
