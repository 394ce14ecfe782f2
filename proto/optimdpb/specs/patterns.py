"""Shell-style patterns over many names at once: * ? [abc] [a-z] [!a-z].

A set of places in all names is one integer. Each name has a bit for the place in front of each of its characters, one
for the place behind the last, and one that stays free. A pattern moves all names along together, character by
character: its time is bounded by its length times that of the names, whatever both are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]
# Behind a name, for its last place and for the free one. No name has it.
_NOTHING = "\0\0"
# Of places that are kept for the next pattern that needs them.
_KEPT_BYTES_MAX = 64 << 20


class Names:
    """Names that patterns are matched against."""

    def __init__(self, names: Sequence[str]) -> None:
        text = "".join(name + _NOTHING for name in names)
        self._codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        behind = np.cumsum([len(name) + len(_NOTHING) for name in names], dtype=np.int64)
        self._ends = behind - len(_NOTHING)
        self._starts = self._places_at(np.concatenate([[0], behind[:-1]]).astype(np.int64))
        self._free = self._places_at(behind - 1)
        self._not_free = ~self._free
        self._kept: dict[str, int] = {}

    def matching(self, pattern: str) -> Booleans:
        """(name,): whether the whole name matches."""
        places = self._starts
        for part in _parts(pattern):
            if part == "*":
                # A name's free bit minus its places sets all bits from the first place on but the other places.
                places = (places | (self._free - places)) & self._not_free
            else:
                places = (places & self._before(part)) << 1
            if not places:
                break
        packed = np.frombuffer(places.to_bytes(self._codes.size // 8 + 1, "little"), np.uint8)
        bits: Booleans = np.unpackbits(packed, bitorder="little")[self._ends].astype(np.bool_)
        return bits

    def _before(self, part: str) -> int:
        """The places in front of a character that a part of a pattern stands for."""
        known = self._kept.get(part)
        if known is None:
            known = _places(_stands_for(part, self._codes) & (self._codes != 0))
            if len(self._kept) * self._codes.size // 8 > _KEPT_BYTES_MAX:
                self._kept.clear()
            self._kept[part] = known
        return known

    def _places_at(self, at: NDArray[np.int64]) -> int:
        marked = np.zeros(self._codes.size, np.bool_)
        marked[at] = True
        return _places(marked)


def _places(marked: Booleans) -> int:
    return int.from_bytes(np.packbits(marked, bitorder="little").tobytes(), "little")


def _parts(pattern: str) -> Iterator[str]:
    """ "*", "?", one character, or what stands between brackets with the opening one. Stars in a row are one."""
    at, last = 0, ""
    while at < len(pattern):
        part = pattern[at]
        if part == "[":
            stop = pattern.find("]", at + (3 if pattern.startswith("!", at + 1) else 2))
            if stop > 0:  # without an end it stands for itself
                part = pattern[at:stop]
                at = stop
        at += 1
        if not part == last == "*":
            yield part
        last = part


def _stands_for(part: str, codes: NDArray[np.uint32]) -> Booleans:
    """Which characters "?", "a", "[abc", "[a-z" or "[!a-z" stands for; a range that goes backwards has none."""
    if len(part) == 1:
        return np.ones(codes.size, np.bool_) if part == "?" else codes == ord(part)
    is_other = part.startswith("[!")
    members = part[2 if is_other else 1 :]
    found = np.zeros(codes.size, np.bool_)
    at = 0
    while at < len(members):
        is_range = members.startswith("-", at + 1) and at + 2 < len(members)
        found |= (codes >= ord(members[at])) & (codes <= ord(members[at + 2 if is_range else at]))
        at += 3 if is_range else 1
    return ~found if is_other else found
