"""A process that is held up for longer than its lease while it copies parameters that it shares with the server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import optimd
import pytest
from optimd import buffers
from optimd_server.runtime import ServerConfig

from tests.e2e.scene import eventually
from tests.support.servers import ThreadServer

pytestmark = pytest.mark.alone

ELEMENTS = 100_000


def joined(address: str, name: str) -> optimd.Worker:
    worker = optimd.connect(address, job="j", worker=name)
    worker.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.SGD(1.0), optimd.Sync(2, workers_min=1))
    worker.pull()
    assert worker._membership.memory is not None
    return worker


def step(worker: optimd.Worker) -> Any:
    return worker.step({"w": np.full(ELEMENTS, 1.0, np.float32)})


@pytest.mark.parametrize("call", [step, lambda worker: worker.pull()], ids=["step", "pull"])
def test_what_it_gets_is_of_one_version(call: Callable[[optimd.Worker], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease ends in mid-copy and the other worker's update changes the memory."""
    with (
        ThreadServer(ServerConfig(threads=1, lease_s=0.5, tick_interval_s=0.05)) as server,
        joined(server.address, "w0") as held_up,
        joined(server.address, "w1") as other,
    ):
        members = server.host("j").machine.state.members
        plain, armed = buffers.gather, [False]

        def gather(target: Any, sources: Any) -> None:
            if not armed[0] or threading.current_thread() is not threading.main_thread():
                plain(target, sources)
                return
            armed[0] = False
            keeper = held_up._membership._keeper
            assert keeper is not None
            half = ELEMENTS // 2
            plain(target[:half], [sources[0][:half]])
            keeper.stop()
            eventually(lambda: server.on_loop(lambda: len(members)) == 1, "its lease to end")
            assert step(other).status == "applied"
            plain(target[half:], [sources[0][half:]])

        monkeypatch.setattr(buffers, "gather", gather)
        other_step = threading.Thread(target=step, args=(other,))
        if call is step:
            other_step.start()
            armed[0] = False
            monkeypatch.setattr(held_up._puller, "_copied", arming(held_up._puller._copied, armed))
            parameters = call(held_up).parameters
            other_step.join(30)
        else:
            armed[0] = True
            parameters = call(held_up)
        assert not armed[0]
        version = held_up._base
        assert version is not None
        assert set(parameters["w"].tolist()) == {-float(version.step)}
        assert version.step == (2 if call is step else 1)


def arming(copied: Callable[..., Any], armed: list[bool]) -> Callable[..., Any]:
    """The same, held up the first time."""
    left = [True]

    def call(*arguments: Any) -> Any:
        armed[0] = left.pop() if left else False
        return copied(*arguments)

    return call
