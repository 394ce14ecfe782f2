"""The vectors that a worker's gradients are sent from, and those that parameters are received into."""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from optimdpb.errors import OutcomeUnknown
from optimdpb.specs import Layout

from optimd import tensors
from optimd.bulk import Copier, gather

Float32s = NDArray[np.float32]
Views = dict[str, Float32s]

BUFFERS = 2


def _references(objects: Sequence[object]) -> list[int]:
    return [sys.getrefcount(each) for each in objects]


# Of something that only the list holds: how many the counting itself adds depends on the interpreter.
_UNUSED = _references([np.empty(0)])[0]


class GradientBuffers:
    """Two flat vectors. One holds the push whose outcome is not known; it is not handed out meanwhile.

    memory: where they are; None for memory of their own, taken as it is needed. Whoever writes to the views that
    views() gave and pushes them has nothing copied.
    """

    def __init__(self, layout: Layout, memory: Sequence[Float32s] | None = None) -> None:
        self.layout = layout
        self._memory = memory
        self._flats: list[Float32s | None] = list(memory) if memory is not None else [None] * BUFFERS
        self._views: list[Views | None] = [None] * len(self._flats)
        self._held: set[int] = set()
        self._copier = Copier()

    def are_of(self, layout: Layout, memory: Sequence[Float32s] | None) -> bool:
        """Whether they were made of these."""
        return self.layout is layout and self._memory is memory

    def views(self) -> Views:
        """A free vector by tensor: what is written there is the gradient. Raises OutcomeUnknown if none is free."""
        self._copier.stop()
        return dict(self._views_of(self._free()))

    def whole(self, gradients: Mapping[str, NDArray[np.generic]]) -> Views | None:
        """The views of one of these vectors, if that is exactly what the gradients are: they need no check, no copy."""
        return next((views for views in self._views if views is not None and _are(gradients, views)), None)

    def put(self, gradients: Mapping[str, NDArray[np.generic]], whole: Views | None) -> Float32s:
        """The flat vector of checked gradients, held until release(). whole: what whole() found; else they are copied.

        They are copied also if the server still has that vector, or if it is none of these any more.
        """
        self._copier.stop()
        for index, views in enumerate(self._views):
            if views is not None and views is whole and index not in self._held:
                return self._hold(index)
        index = self._free()
        tensors.pack(self.layout, gradients, self._flat(index), self._copier)
        return self._hold(index)

    def adopt(self, flat: Float32s) -> Float32s:
        """A vector of these with that content, held: the vector itself if it is one of them."""
        for index, own in enumerate(self._flats):
            if own is flat:
                return self._hold(index)
        index = self._free()
        self._copier.gather(self._flat(index), [flat])
        return self._hold(index)

    def release(self) -> None:
        """The outcome is known: every vector is free."""
        self._held.clear()

    def _hold(self, index: int) -> Float32s:
        self._held.add(index)
        return self._flat(index)

    def _free(self) -> int:
        for index in range(len(self._flats)):
            if index not in self._held:
                return index
        raise OutcomeUnknown("every gradient buffer holds a push whose outcome is not known")

    def _flat(self, index: int) -> Float32s:
        flat = self._flats[index]
        if flat is None:
            flat = self._flats[index] = np.empty(self.layout.elements, np.float32)
        return flat

    def _views_of(self, index: int) -> Views:
        views = self._views[index]
        if views is None:
            views = self._views[index] = tensors.unpack(self.layout, self._flat(index))
        return views


class ParameterBuffers:
    """Vectors for parameters: fresh ones that belong to the caller, or the one that is read in place.

    A fresh one is memory that was given out before, once nobody refers to it any more: the first touch of new memory
    costs more than the copy.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._given: list[Float32s] = []
        self._place: tuple[Float32s, Views] | None = None

    def fresh(self) -> Float32s:
        """A vector that nobody else has; its content is undefined."""
        for place, references in enumerate(_references(self._given)):
            if references <= _UNUSED:
                return self._given[place]
        flat = np.empty(self.layout.elements, np.float32)
        self._given = [*self._given[-1:], flat]
        return flat

    def copied(self, flat: Float32s, target: Float32s | None = None) -> Views:
        """The parameters in arrays that belong to the caller; in that fresh vector if one is given."""
        target = self.fresh() if target is None else target
        gather(target, [flat])
        return tensors.unpack(self.layout, target)

    def in_place(self, flat: Float32s) -> Views:
        """Views of a read-only vector that changes with the next pull."""
        if self._place is None or self._place[0] is not flat:
            self._place = flat, tensors.unpack(self.layout, flat)
        return dict(self._place[1])


def _are(gradients: Mapping[str, NDArray[np.generic]], views: Views) -> bool:
    """Whether these are those very arrays under the same names, in the same order."""
    same = len(gradients) == len(views) and all(map(operator.is_, gradients.values(), views.values()))
    return same and list(gradients) == list(views)
