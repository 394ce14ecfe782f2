"""What copy=False gives is only to be read: who writes to it all the same gets an error, and harms nobody."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optimd
import pytest
from optimd import window
from optimd.window import PARTS_MAX

from tests.e2e.shared import START, config, gradient, in_place, joined, named, shares
from tests.support.servers import ThreadServer


def by_address(array: Any) -> None:
    """As any library does that ignores numpy's flag."""
    (ctypes.c_float * array.size).from_address(array.ctypes.data)[array.size - 1] = 1e6


def by_torch(array: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.from_numpy(array).add_(1.0)


CALLS: dict[str, Callable[[optimd.Worker], object]] = {
    "pull": lambda worker: worker.pull(copy=False),
    "pull of copies": lambda worker: worker.pull(),
    "push": lambda worker: worker.push(named(gradient(0))),
    "step": lambda worker: worker.step(named(gradient(0)), copy=False),
    "step of copies": lambda worker: worker.step(named(gradient(0))),
}


@pytest.fixture(params=["shared memory", "grpc"])
def server(request: pytest.FixtureRequest) -> Iterator[ThreadServer]:
    with ThreadServer(config(shared_memory=request.param == "shared memory", lease_s=60.0)) as server:
        yield server


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("write", [by_address, by_torch])
def test_the_next_call_says_what_was_written_to(
    write: Callable[[Any], None], call: str, server: ThreadServer, request: pytest.FixtureRequest
) -> None:
    with joined(server.address) as worker:
        assert shares(worker) == ("shared memory" in request.node.name)
        held = worker.pull(copy=False)["w"]
        write(held)
        with pytest.raises(ValueError, match=r"'w' were written to.*torch\.from_numpy\(array\)\.clone\(\)"):
            CALLS[call](worker)
        assert np.array_equal(server.vectors("j")[0], START)
        with pytest.raises(ValueError, match="pulled before"):
            worker.push(named(gradient(0)))
        again = worker.pull(copy=False)["w"]
        assert np.array_equal(again, named(START)["w"])
        result = worker.step(named(gradient(0)), copy=False)
        assert np.array_equal(result.parameters["w"], server.vectors("j")[0][: again.size])
        assert not shares(worker) or result.parameters["w"] is again, "it is read in place as ever"


def train(worker: optimd.Worker, steps: int) -> None:
    for step in range(steps):
        in_place(worker, step, 0)


def test_what_is_written_and_the_same_is_no_error(server: ThreadServer) -> None:
    with joined(server.address) as worker:
        held = worker.pull(copy=False)["w"]
        (ctypes.c_float * 1).from_address(held.ctypes.data)[0] = float(held[0])
        result = worker.step(named(gradient(0)), copy=False)
        assert np.array_equal(result.parameters["w"], server.vectors("j")[0][: held.size])


def test_steps_that_look_at_a_part_each_find_it_within_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "PART_PAGES_MIN", 1)
    with ThreadServer(config(lease_s=60.0)) as server, joined(server.address) as worker:
        for _ in range(2):
            worker.pull(copy=False)
            by_address(in_place(worker, 0, 0).parameters["w"])
            with pytest.raises(ValueError, match="'w' were written to"):
                train(worker, PARTS_MAX + 1)


def test_a_write_of_the_same_hides_none_elsewhere() -> None:
    pages = 2 * window.PART_PAGES_MIN
    with tempfile.TemporaryFile() as file:
        file.truncate(pages * mmap.PAGESIZE)
        made = window.Window(file.fileno(), np.frombuffer(mmap.mmap(file.fileno(), pages * mmap.PAGESIZE), np.float32))
        values = (ctypes.c_float * made.flat.size).from_address(made.flat.ctypes.data)
        values[0], values[made.flat.size - 1] = 0.0, 1.0
        assert [made.changed(whole=False) for _ in range(2)] == [None, made.flat.size - 1]
        assert made.flat[-1] == 0.0
        assert made.changed(whole=True) is None


def test_numpy_refuses_to_make_them_writable(server: ThreadServer) -> None:
    with joined(server.address) as worker:
        held = worker.pull(copy=False)["w"]
        with pytest.raises(ValueError, match="read-only"):
            held += 1.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            held.flags.writeable = True


def test_a_system_that_tells_of_no_writes_gets_copies(server: ThreadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "_PAGEMAP", "/proc/self/no-such-file")
    with joined(server.address) as worker:
        for step in range(3):
            held = worker.pull(copy=False)["w"]
            held += 1.0
            parameters = in_place(worker, step, 0).parameters["w"]
            assert np.array_equal(parameters, server.vectors("j")[0][: held.size])
            parameters += 1.0
