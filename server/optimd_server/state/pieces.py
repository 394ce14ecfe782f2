"""Pieces: runs of 4,096 elements of one tensor, the unit of shard borders and of every sum."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from optimdpb.specs import Layout

from optimd_server.optimizers.kernels import BLOCK_ELEMENTS, PIECE_ELEMENTS

Int64s = NDArray[np.int64]


def piece_bounds(layout: Layout) -> Int64s:
    """Ascending elements b_0 = 0, …, b_P: piece p is elements b_p to b_{p+1}. No piece crosses a tensor's border."""
    starts = [
        np.arange(start, stop, PIECE_ELEMENTS, dtype=np.int64)
        for start, stop in zip(layout.offsets, layout.offsets[1:], strict=False)
    ]
    return np.concatenate([*starts, np.array([layout.elements], np.int64)])


def split_evenly(bounds: Int64s, shard_count: int) -> list[Int64s]:
    """Cut the pieces into shard_count runs of about equal elements; each run is its own bounds, sharing one border."""
    targets = np.arange(1, shard_count) * (int(bounds[-1]) / shard_count)
    borders = [0, *np.searchsorted(bounds, targets).tolist(), len(bounds) - 1]
    return [bounds[start : stop + 1] for start, stop in itertools.pairwise(borders)]


def blocks_of(elements: int) -> Int64s:
    """Rows (start, stop, group): the turns in which threads take the elements of a shard. Everything is group 0."""
    starts = np.arange(0, elements, BLOCK_ELEMENTS, dtype=np.int64)
    stops = np.minimum(starts + BLOCK_ELEMENTS, elements)
    return np.stack([starts, stops, np.zeros_like(starts)], axis=1)
