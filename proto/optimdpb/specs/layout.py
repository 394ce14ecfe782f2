"""The layout: named tensors in order, as slices of one flat float32 vector."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import struct
from dataclasses import dataclass, field

from optimdpb.errors import InvalidLayout

ELEMENT_BYTES = 4
NAME_BYTES_MAX = 200
DIMENSION_MAX = 2**53
# What numpy and torch can hold.
DIMENSIONS_MAX = 32
_KIND_CODE = {"trainable": 1, "buffer": 2}


def check_name(name: object) -> None:
    """Raises InvalidLayout for what cannot be the name of a tensor."""
    if not isinstance(name, str):
        remedy = ": join its parts, as '/'.join(map(str, key)) does" if isinstance(name, tuple) else ": pass str(key)"
        raise InvalidLayout(
            repr(name), f"tensor {name!r}: expected a string as its name, got {type(name).__name__}{remedy}"
        )
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidLayout(repr(name), f"tensor name {name!r}: expected text that UTF-8 can hold: {error}") from None
    if not 1 <= size_bytes <= NAME_BYTES_MAX or any(ord(c) < 32 or ord(c) == 127 for c in name):
        expected = f"expected 1 to {NAME_BYTES_MAX} bytes without control characters"
        raise InvalidLayout(name, f"tensor name {name[:NAME_BYTES_MAX]!r}: {expected}, got {size_bytes} bytes")


@dataclass(frozen=True)
class Tensor:
    """One tensor: a unique name, its shape (empty for a scalar, zero dimensions allowed), its kind."""

    name: str
    shape: tuple[int, ...]
    kind: str = "trainable"

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.shape) > DIMENSIONS_MAX:
            raise InvalidLayout(
                self.name,
                f"tensor {self.name!r}: expected at most {DIMENSIONS_MAX} dimensions, got {len(self.shape)}",
            )
        object.__setattr__(self, "shape", tuple(int(dimension) for dimension in self.shape))
        if any(not 0 <= dimension <= DIMENSION_MAX for dimension in self.shape):
            raise InvalidLayout(
                self.name, f"tensor {self.name!r}: expected dimensions from 0 to 2^53, got {list(self.shape)}"
            )
        if self.kind not in _KIND_CODE:
            raise InvalidLayout(
                self.name, f"tensor {self.name!r}: expected kind trainable or buffer, got {self.kind!r}"
            )

    @property
    def elements(self) -> int:
        """Number of elements; an exact Python int."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Tensors in declared order, each in C order, without padding."""

    tensors: tuple[Tensor, ...]
    digest: bytes = field(init=False, compare=False, repr=False)
    offsets: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", tuple(self.tensors))
        if not self.tensors:
            raise InvalidLayout("", "expected at least one tensor, got none")
        seen: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in seen:
                raise InvalidLayout(tensor.name, f"tensor {tensor.name!r} is declared twice")
            seen.add(tensor.name)
        sizes = (tensor.elements for tensor in self.tensors)
        object.__setattr__(self, "offsets", (0, *itertools.accumulate(sizes)))
        object.__setattr__(self, "digest", _digest(self.tensors))

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Of the tensors, in order."""
        return tuple(tensor.name for tensor in self.tensors)

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the tensors, in order."""
        return tuple(tensor.shape for tensor in self.tensors)

    @functools.cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each tensor lies in the whole vector."""
        return tuple(map(slice, self.offsets, self.offsets[1:]))

    @property
    def elements(self) -> int:
        """Elements of the whole vector."""
        return self.offsets[-1]

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole vector in float32."""
        return self.elements * ELEMENT_BYTES


def _digest(tensors: tuple[Tensor, ...]) -> bytes:
    """SHA-256 as the contract's message Layout describes it."""
    sha = hashlib.sha256()
    for tensor in tensors:
        name = tensor.name.encode()
        rank = len(tensor.shape)
        sha.update(struct.pack("<I", len(name)) + name)
        sha.update(struct.pack(f"<BI{rank}q", _KIND_CODE[tensor.kind], rank, *tensor.shape))
    return sha.digest()
