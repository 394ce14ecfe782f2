"""Pieces: runs of 4,096 elements of one tensor, the unit of shard borders and of every sum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optimdpb.specs import Layout

from optimd_server.optimizers import NO_ROW
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


def runs_of(layout: Layout, rows: Sequence[int]) -> Int64s:
    """(start, stop, row) for maximal runs of elements of the same row, one row for each tensor; NO_ROW has no run."""
    runs: list[list[int]] = []
    for start, stop, row in zip(layout.offsets, layout.offsets[1:], rows, strict=False):
        if row == NO_ROW or start == stop:
            continue
        if runs and runs[-1][1] == start and runs[-1][2] == row:
            runs[-1][1] = stop
        else:
            runs.append([start, stop, row])
    return np.array(runs, np.int64).reshape(-1, 3)


def blocks_of(runs: Int64s, start: int, stop: int) -> Int64s:
    """The turns in which threads take elements start to stop: runs cut to at most a block, counted from `start`."""
    blocks = [
        (first - start, min(first + BLOCK_ELEMENTS, run_stop) - start, row)
        for run_start, run_stop, row in np.clip(runs, [start, start, 0], [stop, stop, np.iinfo(np.int64).max]).tolist()
        for first in range(run_start, run_stop, BLOCK_ELEMENTS)
    ]
    return np.array(blocks, np.int64).reshape(-1, 3)
