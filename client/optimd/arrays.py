"""What people pass for a tensor, as an array that float32 can be made of; else an error that says what to pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import InvalidLayout, Refused
from optimdpb.specs.layout import check_name

FLOAT32 = np.dtype(np.float32)
# Beyond it float32 leaves out integers.
INTEGER_MAX = 2**24


class Unfit(Exception):
    """What came for a tensor is of no use; the message says what was expected, what came and what to do."""


def array_of(value: Any, *, cast: bool) -> NDArray[Any]:
    """The value as an array, of float32 or (cast) of numbers that float32 holds. Raises Unfit."""
    if isinstance(value, np.ma.MaskedArray):
        raise Unfit("expected a numpy array, got a masked one: pass its .filled(0.0)")
    if not isinstance(value, np.ndarray | np.generic):
        raise Unfit(f"expected a numpy array, got {type(value).__name__}{_remedy(value)}")
    array = np.asarray(value)
    if array.dtype == FLOAT32:
        return array
    if not np.can_cast(array.dtype, FLOAT32, "same_kind"):
        raise Unfit(f"expected dtype float32, got {array.dtype}: only real numbers can be trained; leave it out")
    if not cast:
        raise Unfit(
            f"expected dtype float32, got {array.dtype}:"
            " pass its .astype(np.float32), or give cast_to_float32=True to ensure_job()"
        )
    if array.dtype.kind in "iu" and array.size and max(-int(array.min()), int(array.max())) > INTEGER_MAX:
        largest = max(int(array.min()), int(array.max()), key=abs)
        raise Unfit(f"expected integers up to 2^24, which float32 holds exactly, got {largest}: leave it out")
    return array


def _remedy(value: Any) -> str:
    if value is None:
        return ": pass np.zeros(shape, np.float32) for a gradient that there is none of; leave out what has no values"
    if hasattr(value, "detach"):
        widen = ".float()" if "bfloat16" in str(getattr(value, "dtype", "")) else ""
        return f": pass its .detach(){widen}.cpu().numpy()"
    if isinstance(value, Mapping):
        return ": make one dict of nested ones, with names such as 'layer/kernel'"
    if isinstance(value, list | tuple | float | int) or hasattr(value, "__array__"):
        return ": pass np.asarray(it, np.float32)"
    return ""


def _named(parameters: Any) -> str:
    if hasattr(parameters, "named_parameters") or isinstance(parameters, Iterator):
        return ": pass {name: p.detach().cpu().numpy() for name, p in model.named_parameters()}"
    if isinstance(parameters, list | tuple):
        return ": pass {f'w{place}': array for place, array in enumerate(it)}"
    return ": pass {'w': it}" if isinstance(parameters, np.ndarray) else ""


def parameters_of(parameters: Mapping[str, Any], *, cast: bool) -> dict[str, NDArray[Any]]:
    """Initial parameters by name. Raises InvalidLayout, Refused(NON_FINITE_PARAMETERS), naming the tensor."""
    if not isinstance(parameters, Mapping):
        kind = type(parameters).__name__
        raise InvalidLayout("", f"expected a dict of arrays by name, got {kind}{_named(parameters)}")
    arrays = {}
    for name, value in parameters.items():
        check_name(name)
        try:
            arrays[name] = array_of(value, cast=cast)
        except Unfit as why:
            raise InvalidLayout(name, f"tensor {name!r}: {why}") from None
        _check_finite(name, arrays[name])
    return arrays


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind in "iub":
        return
    with np.errstate(over="ignore"):
        fits = np.isfinite(array.astype(FLOAT32, copy=False))
    if not fits.all():
        value = array[~fits].flat[0]
        message = (
            f"tensor {name!r}: expected finite values that fit float32, got {value}:"
            " leave masks and other constants out, and make them in each worker"
        )
        raise Refused("NON_FINITE_PARAMETERS", message, tensor=name)
