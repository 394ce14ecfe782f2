"""Named arrays to one flat float32 vector and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import InvalidGradient, InvalidLayout
from optimdpb.specs import Layout, Tensor

from optimd.arrays import FLOAT32, Unfit, array_of
from optimd.bulk import Copier

Float32s = NDArray[np.float32]


def layout_of(arrays: Mapping[str, NDArray[Any]], buffers: Collection[str] = ()) -> Layout:
    """The layout of arrays in the mapping's order. Raises InvalidLayout for buffers that are none of them."""
    for name in buffers:
        if name not in arrays:
            raise InvalidLayout(name, f"buffer {name!r}: expected the name of one of the parameters")
    kinds = {name: "buffer" if name in buffers else "trainable" for name in arrays}
    return Layout(tuple(Tensor(name, array.shape, kinds[name]) for name, array in arrays.items()))


def pack(
    layout: Layout, arrays: Mapping[str, NDArray[np.generic]], flat: Float32s, copier: Copier | None = None
) -> None:
    """Copy arrays of the layout's shapes into a flat vector, converting to float32; some may lie there already."""
    sources = [arrays[name] for name in layout.names]
    for place, source in enumerate(sources):
        if source.base is not None and np.may_share_memory(flat, source):
            own = flat[layout.slices[place]]
            if not source.flags.c_contiguous or source.ctypes.data != own.ctypes.data:
                sources[place] = source.copy()  # it would be written to before it is read
    (copier or Copier()).gather(flat, sources)


def gradients_of(layout: Layout, gradients: Mapping[str, Any], *, cast: bool) -> Mapping[str, NDArray[Any]]:
    """The gradients as arrays of the layout's shapes, of float32 or (cast) of what it can be made of.

    Raises InvalidGradient, naming them, for tensors missing, unknown, of another shape or of no use.
    """
    if not isinstance(gradients, Mapping):
        raise InvalidGradient(f"expected a dict of arrays by tensor, got {type(gradients).__name__}")
    if tuple(gradients) == layout.names and _fit(layout, list(gradients.values())):
        return gradients
    names = set(layout.names)
    if gradients.keys() != names:
        _refuse_names(layout, gradients, names)
    arrays = {}
    for tensor in layout.tensors:
        try:
            array = array_of(gradients[tensor.name], cast=cast)
            if array.shape != tensor.shape:
                raise Unfit(f"expected shape {tensor.shape}, got {array.shape}")
        except Unfit as why:
            raise InvalidGradient(f"gradient {tensor.name!r}: {why}", tensor=tensor.name) from None
        arrays[tensor.name] = array
    return arrays


def _fit(layout: Layout, gradients: Sequence[Any]) -> bool:
    """Whether these are float32 arrays of the layout's shapes, as nearly always: ten thousand are seen at a glance."""
    if set(map(type, gradients)) != {np.ndarray}:
        return False
    dtypes, shapes = {gradient.dtype for gradient in gradients}, tuple([gradient.shape for gradient in gradients])
    return dtypes == {FLOAT32} and shapes == layout.shapes


def _refuse_names(layout: Layout, gradients: Mapping[str, NDArray[np.generic]], names: set[str]) -> NoReturn:
    missing = [tensor.name for tensor in layout.tensors if tensor.name not in gradients]
    unknown = [name for name in gradients if name not in names]
    parts = [f"missing {', '.join(map(repr, missing))}"] if missing else []
    parts += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
    remedy = " (pass zeros where there is no gradient, the value of a buffer)" if missing else ""
    raise InvalidGradient(f"expected a gradient for exactly the layout's tensors: {'; '.join(parts)}{remedy}")


def unpack(layout: Layout, flat: Float32s) -> dict[str, Float32s]:
    """Views of the flat vector by name; the caller gives the vector away with them."""
    parts = map(flat.__getitem__, layout.slices)
    return {
        name: part if len(shape) == 1 else part.reshape(shape)
        for name, shape, part in zip(layout.names, layout.shapes, parts, strict=True)
    }
