"""Named arrays to one flat float32 vector and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import InvalidGradient, InvalidLayout
from optimdpb.specs import Layout, Tensor

from optimd.bulk import Copier

Float32s = NDArray[np.float32]
_FLOAT32 = np.dtype(np.float32)


def layout_of(
    parameters: Mapping[str, NDArray[np.generic]], buffers: Collection[str] = (), *, cast_to_float32: bool
) -> Layout:
    """The layout of arrays in the mapping's order. Raises InvalidLayout for what is no float32 array, or no array."""
    for name in buffers:
        if name not in parameters:
            raise InvalidLayout(name, f"buffer {name!r}: expected the name of one of the parameters")
    for name, array in parameters.items():
        if not isinstance(array, np.ndarray):
            raise InvalidLayout(name, f"tensor {name!r}: expected a numpy array, got {type(array).__name__}")
        castable = cast_to_float32 and np.issubdtype(array.dtype, np.floating)
        if array.dtype != np.float32 and not castable:
            raise InvalidLayout(
                name,
                f"tensor {name!r}: expected dtype float32, got {array.dtype} (cast_to_float32=True converts floats)",
            )
    kinds = {name: "buffer" if name in buffers else "trainable" for name in parameters}
    return Layout(tuple(Tensor(name, array.shape, kinds[name]) for name, array in parameters.items()))


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


def check_gradients(layout: Layout, gradients: Mapping[str, NDArray[np.generic]]) -> None:
    """Raises InvalidGradient, naming them, for tensors missing, unknown, of another shape or not float32."""
    if tuple(gradients) == layout.names and _fit(layout, list(gradients.values())):
        return
    names = set(layout.names)
    if gradients.keys() != names:
        _refuse_names(layout, gradients, names)
    for tensor in layout.tensors:
        gradient = gradients[tensor.name]
        if not isinstance(gradient, np.ndarray) or gradient.dtype != np.float32:
            got = getattr(gradient, "dtype", type(gradient).__name__)
            raise InvalidGradient(f"gradient {tensor.name!r}: expected dtype float32, got {got}", tensor=tensor.name)
        if gradient.shape != tensor.shape:
            raise InvalidGradient(
                f"gradient {tensor.name!r}: expected shape {tensor.shape}, got {gradient.shape}", tensor=tensor.name
            )


def _fit(layout: Layout, gradients: Sequence[Any]) -> bool:
    """Whether these are float32 arrays of the layout's shapes, as nearly always: ten thousand are seen at a glance."""
    if set(map(type, gradients)) != {np.ndarray}:
        return False
    dtypes, shapes = {gradient.dtype for gradient in gradients}, tuple([gradient.shape for gradient in gradients])
    return dtypes == {_FLOAT32} and shapes == layout.shapes


def _refuse_names(layout: Layout, gradients: Mapping[str, NDArray[np.generic]], names: set[str]) -> NoReturn:
    missing = [tensor.name for tensor in layout.tensors if tensor.name not in gradients]
    unknown = [name for name in gradients if name not in names]
    parts = [f"missing {', '.join(map(repr, missing))}"] if missing else []
    parts += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
    raise InvalidGradient(f"expected a gradient for exactly the layout's tensors: {'; '.join(parts)}")


def unpack(layout: Layout, flat: Float32s) -> dict[str, Float32s]:
    """Views of the flat vector by name; the caller gives the vector away with them."""
    parts = map(flat.__getitem__, layout.slices)
    return {
        name: part if len(shape) == 1 else part.reshape(shape)
        for name, shape, part in zip(layout.names, layout.shapes, parts, strict=True)
    }
