"""Workers with unequal numbers of batches: whoever has more goes on without who is out of data."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import optimd
import pytest

from tests.e2e.scene import eventually
from tests.support.servers import ThreadServer

WORKER = """
import sys
import numpy as np
import optimd

address, job, name, batches, steps_max = sys.argv[1:]
with optimd.connect(address, job=job, worker=name) as worker:
    worker.ensure_job(
        {"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(workers=3), steps_max=int(steps_max) or None
    )
    worker.pull()
    for _ in range(int(batches)):
        result = worker.step({"w": np.ones(4, np.float32)})
        assert result.status == "applied", result
    if name == "w3":
        raise ValueError("a bug of the user's")
print(result.global_step)
"""


def start(server: ThreadServer, name: str, batches: int, steps_max: int = 0) -> subprocess.Popen[str]:
    arguments = [server.address, "j", name, str(batches), str(steps_max)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("steps_max", [0, 5000])
def test_two_of_three_make_their_tenth_step_after_the_third_has_left(steps_max: int) -> None:
    with ThreadServer() as server:
        workers = [start(server, name, batches, steps_max) for name, batches in (("w0", 10), ("w1", 10), ("w2", 9))]
        ends = [worker.communicate(timeout=60) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0], ends
        with optimd.connect(server.address, job="j", observer=True) as observer:
            assert observer.status().global_step == 10
            np.testing.assert_array_equal(observer.pull()["w"], np.full(4, -10.0), "the mean is over those there")


def test_whose_block_ends_by_an_exception_is_waited_for() -> None:
    with ThreadServer() as server:
        workers = [start(server, name, batches) for name, batches in (("w0", 2), ("w1", 2), ("w3", 1))]
        assert "a bug of the user's" in workers[2].communicate(timeout=60)[1]
        with optimd.connect(server.address, job="j", worker="w3") as again:
            eventually(lambda: all(worker.last_seq == 2 for worker in again.status().workers), "both to push")
            assert again.status().waiting_for == "round 1 closes with 3 workers: 2 live"
            again.ensure_job({"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(workers=3))
        assert [worker.communicate(timeout=60)[0] for worker in workers[:2]] == ["2\n", "2\n"]


def test_an_exit_without_an_error_is_a_good_end() -> None:
    with ThreadServer() as server, optimd.connect(server.address, job="j", worker="a") as other:
        job = ({"w": np.zeros(4, np.float32)}, optimd.SGD(1.0), optimd.Sync(workers=2))
        other.ensure_job(*job)

        def end_in_order() -> None:
            with optimd.connect(server.address, job="j", worker="b") as worker:
                worker.ensure_job(*job)
                sys.exit(0)

        with pytest.raises(SystemExit):
            end_in_order()
        other.pull()
        assert other.step({"w": np.ones(4, np.float32)}).status == "applied"
