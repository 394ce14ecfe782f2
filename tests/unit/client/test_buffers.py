"""Who has which gradient buffer, and memory for parameters that is used again once nobody looks at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optimd import bulk
from optimd.buffers import GradientBuffers, ParameterBuffers
from optimd.bulk import THREADED_BYTES_MIN, THREADS_MAX, gather
from optimdpb import machine
from optimdpb.errors import OutcomeUnknown
from optimdpb.specs import Layout, Tensor

LAYOUT = Layout((Tensor("w", (2, 3)), Tensor("b", ()), Tensor("none", (0,))))


def gradients(value: float) -> dict[str, np.ndarray]:
    return {
        "w": np.full((2, 3), value, np.float32),
        "b": np.array(value, np.float32),
        "none": np.empty(0, np.float32),
    }


def put(buffers: GradientBuffers, values: dict[str, np.ndarray]) -> np.ndarray:
    return buffers.put(values, buffers.whole(values))


def test_what_is_written_to_the_views_is_not_copied() -> None:
    memory = [np.zeros(7, np.float32), np.zeros(7, np.float32)]
    buffers = GradientBuffers(LAYOUT, memory)
    views = buffers.views()
    views["w"][...], views["b"][...] = 2.0, 3.0
    whole = buffers.whole(views)
    assert whole is not None
    assert buffers.put(views, whole) is memory[0]
    assert memory[0].tolist() == [2.0] * 6 + [3.0]


def test_one_buffer_at_a_time_is_with_the_server() -> None:
    memory = [np.zeros(7, np.float32), np.zeros(7, np.float32)]
    buffers = GradientBuffers(LAYOUT, memory)
    first = buffers.views()
    assert put(buffers, first) is memory[0]
    second = buffers.views()
    assert second["w"] is not first["w"]
    assert put(buffers, first) is memory[1], "the server has that one: what is given again is copied"
    with pytest.raises(OutcomeUnknown, match="every gradient buffer"):
        buffers.views()
    with pytest.raises(OutcomeUnknown):
        put(buffers, gradients(1.0))
    buffers.release()
    assert put(buffers, gradients(1.0)) is memory[0]


def test_a_view_that_was_replaced_is_copied() -> None:
    """`buffers["w"] = gradient` instead of `buffers["w"][...] = gradient`."""
    buffers = GradientBuffers(LAYOUT)
    views = buffers.views()
    views["b"][...] = 5.0
    views["w"] = np.full((2, 3), 4.0, np.float32)
    assert buffers.whole(views) is None
    assert put(buffers, views).tolist() == [4.0] * 6 + [5.0]


def test_views_under_other_names_are_no_whole() -> None:
    layout = Layout((Tensor("a", (2,)), Tensor("b", (2,))))
    buffers = GradientBuffers(layout)
    views = buffers.views()
    views["a"][...], views["b"][...] = 1.0, 2.0
    swapped = {"b": views["a"], "a": views["b"]}
    assert buffers.whole(swapped) is None
    assert put(buffers, {"a": views["b"].copy(), "b": views["a"].copy()}).tolist() == [2.0, 2.0, 1.0, 1.0]


def test_a_vector_of_an_older_epoch_is_copied() -> None:
    buffers = GradientBuffers(LAYOUT, [np.zeros(7, np.float32), np.zeros(7, np.float32)])
    old = np.arange(7, dtype=np.float32)
    new = buffers.adopt(old)
    assert new is not old
    assert new.tolist() == old.tolist()
    assert buffers.adopt(new) is new


def test_memory_for_parameters_is_used_again_only_when_nobody_refers_to_it() -> None:
    buffers = ParameterBuffers(LAYOUT)
    source = np.arange(7, dtype=np.float32)
    first = buffers.copied(source)
    kept = first["w"][0]
    del first
    second = buffers.copied(source + 1)
    assert kept.tolist() == [0.0, 1.0, 2.0], "a view of a view keeps it"
    assert not np.shares_memory(second["w"], kept)
    address = second["w"].__array_interface__["data"][0]
    del second
    assert buffers.copied(source)["w"].__array_interface__["data"][0] == address


def test_large_copies_on_threads() -> None:
    """Large and small, converted, in C order whatever theirs is, cut at odd places."""
    elements = THREADED_BYTES_MIN // 4 + 12_345
    rng = np.random.default_rng(0)
    sources = [
        *(rng.standard_normal(7) for _ in range(1000)),
        rng.standard_normal(elements),
        rng.standard_normal((100, 7)).astype(np.float32).T,
        np.asarray(np.float32(3.0)),
        np.empty((0, 3), np.float32),
        rng.standard_normal((1500, 1400)).astype(np.float32).T,
        rng.standard_normal((3, 5, 7)).astype(np.float32),
    ]
    expected = np.concatenate([source.astype(np.float32).ravel() for source in sources])
    target = np.full(expected.size, np.nan, np.float32)
    gather(target, sources)
    assert target.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("cores", "helpers"), [(1, 0), (2, 1), (64, THREADS_MAX - 1)])
def test_threads_that_help_are_no_more_than_cores_to_be_used(
    cores: int, helpers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's quota counts; threads beyond it are stopped together."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    begun: list[str] = []
    monkeypatch.setattr(bulk._Helper, "run", lambda helper: begun.append(helper.name))
    target = np.zeros(THREADED_BYTES_MIN // 4 + 1, np.float32)
    gather(target, [np.ones(target.size, np.float32)])
    assert begun == ["optimd-copy"] * helpers
    assert (target == 1).all()


def of_helpers_only(fault: Callable[[], None]) -> Callable[[Any, Any], None]:
    """bulk._fill, which does this first on the threads that help."""
    real = bulk._fill

    def fill(target: Any, sources: Any) -> None:
        if threading.current_thread().name == "optimd-copy":
            fault()
        else:
            time.sleep(0.005)  # so that they get their turns
        real(target, sources)

    return fill


def test_an_error_on_a_thread_that_helps_is_raised_behind_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be an old gradient otherwise, or part of one."""

    def fail() -> None:
        raise MemoryError("made up")

    monkeypatch.setattr(bulk, "_fill", of_helpers_only(fail))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    target = np.full(THREADED_BYTES_MIN // 4 + 1, 7, np.float32)
    with pytest.raises(MemoryError, match="made up"):
        gather(target, [np.zeros(target.size, np.float32)])
    assert "optimd-copy" not in {thread.name for thread in threading.enumerate()}


def test_no_thread_of_an_interrupted_copy_writes_once_its_vector_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interrupt comes where nothing waits for the threads any more."""
    held = threading.Event()

    def hold() -> None:
        held.wait(10)

    monkeypatch.setattr(bulk, "_fill", of_helpers_only(hold))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    stop = bulk._Helper.stop

    def interrupted(helper: Any) -> None:
        monkeypatch.setattr(bulk._Helper, "stop", stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk._Helper, "stop", interrupted)
    elements = THREADED_BYTES_MIN // 4 + 1
    buffers = GradientBuffers(Layout((Tensor("w", (elements,)),)))
    with pytest.raises(KeyboardInterrupt):
        buffers.put({"w": np.full(elements, 1, np.float32)}, None)
    threading.Timer(0.1, held.set).start()
    flat = buffers.put({"w": np.full(elements, 2, np.float32)}, None)
    time.sleep(0.2)
    assert set(np.unique(flat)) == {2.0}


@pytest.mark.parametrize("elements", [1000, THREADED_BYTES_MIN // 4 + 4])
def test_what_lies_there_already_stays(elements: int) -> None:
    target = np.arange(elements, dtype=np.float32)
    gather(target, [target[:100], np.full(100, -1.0, np.float32), target[200:]])
    assert (target[100:200] == -1.0).all()
    target[100:200] = np.arange(100, 200)
    assert target.tobytes() == np.arange(elements, dtype=np.float32).tobytes()


def test_what_lies_in_the_buffer_in_another_order_is_sent_as_meant() -> None:
    """A gradient made of views of the very buffer that it is packed into."""
    layout = Layout((Tensor("a", (3, 3)), Tensor("b", (3, 3)), Tensor("c", (9,))))
    values = np.arange(27, dtype=np.float32)
    cases = {
        "transposed": lambda g: {**g, "a": g["a"].T},
        "reversed": lambda g: {**g, "c": g["c"][::-1]},
        "swapped": lambda g: {**g, "a": g["b"], "b": g["a"]},
        "shifted": lambda g: {**g, "a": g["b"], "b": g["c"].reshape(3, 3), "c": g["a"].reshape(9)},
        "the same": lambda g: {"a": g["a"][:], "b": g["b"].copy(), "c": g["c"]},
    }
    for name, case in cases.items():
        buffers = GradientBuffers(layout)
        views = buffers.views()
        for start, view in zip((0, 9, 18), views.values(), strict=True):
            view[...] = values[start : start + 9].reshape(view.shape)
        meant = case(views)
        expected = np.concatenate([meant[key].ravel() for key in ("a", "b", "c")])
        assert buffers.whole(meant) is None
        assert buffers.put(meant, None).tolist() == expected.tolist(), name
