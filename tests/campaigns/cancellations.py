"""Every call of the server, cancelled at each of its suspensions in turn.

python -m tests.campaigns.cancellations [SCENARIO ...]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from optimd_server.optimizers.warmup import compile_kernels
from optimdpb.errors import Refused
from optimdpb.specs import Async, Ssp, Sync
from optimdpb.v1 import optimd_pb2 as pb

from tests.campaigns.cancelled_jobs import (
    changing,
    creating,
    deleting,
    lengthening,
    replacing,
    saving,
    testing,
    uploading,
)
from tests.campaigns.cancelled_pushes import Prepare, awaiting, nothing, pulling, pushing, sharing
from tests.campaigns.cancelling import MODES, START, Bystander, OneAtATime, Server, Traces, drive

SUSPENSIONS_MAX = 200
# Where kernels run: on the event loop, or on threads.
PLACES = {"loop": {}, "threads": {"one_thread_bytes_max": 0}}

SCENARIOS: dict[str, Prepare] = {
    "push, Async": pushing(Async()),
    "push, Sync of two": pushing(Sync(2), workers=2),
    "push, Ssp of two": pushing(Ssp(0), workers=2),
    "push in shared memory, Async": pushing(Async(), shared=True),
    "push in shared memory, Sync of three": pushing(Sync(3), workers=3, shared=True),
    "step, Async": pushing(Async(), "step"),
    "step, Sync of two": pushing(Sync(2), "step", workers=2),
    "step in shared memory, Sync": pushing(Sync(1), "step", shared=True),
    "step in shared memory, Async": pushing(Async(), "step", shared=True),
    "await": awaiting(),
    "pull": pulling(Async()),
    "pull as bfloat16": pulling(Async(), pb.ENCODING_BF16),
    "pull into shared memory": pulling(Async(), shared=True),
    "upload": uploading,
    "create and wait": creating(waits=True, large=False),
    "create a large one": creating(waits=False, large=True),
    "snapshot": saving,
    "range test": testing,
    "update": changing,
    "go on behind the end": lengthening,
    "delete beside a push": deleting("push"),
    "delete beside a save": deleting("save"),
    "delete for good": deleting("save", with_snapshots=True),
    "create in place of a failed try": replacing("create"),
    "upload of a try that is replaced": replacing("upload"),
    "open shared memory, Sync": sharing(Sync(1), again=False),
    "open shared memory, Async": sharing(Async(), again=False),
    "open shared memory again": sharing(Async(), again=True),
}


async def cancelled_once(scenario: str, place: str, at: int, mode: str) -> int:
    """One run. Returns how many suspensions the call had."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", **PLACES[place])
        await server.start()
        bystander = Bystander(server)
        await bystander.begin()
        prepared = await SCENARIOS[scenario](server)
        stepping = asyncio.ensure_future(bystander.step())
        beside = asyncio.ensure_future(prepared.beside())
        suspensions = await drive(prepared.call, at, mode)
        await stepping
        if prepared.beside is nothing:
            await server.quiet()
            server.check()
        await prepared.after(beside)
        await bystander.step()
        await server.quiet()
        server.check()
        assert bystander.parameters() == EXPECTED
        await server.close()
    return suspensions


def _bystanders_end() -> bytes:
    """After its two updates."""
    parameters, velocity = START.copy(), np.zeros_like(START)
    for step in (1, 2):
        gradient = np.full_like(START, float(step))
        velocity = gradient if step == 1 else np.float32(0.9) * velocity + gradient
        parameters = parameters - np.float32(0.1) * velocity
    return parameters.tobytes()


EXPECTED = _bystanders_end()


def cancelled_everywhere(scenario: str, place: str, mode: str) -> int:
    """Each suspension in turn. Returns how many there were."""
    for at in itertools.count(1):
        assert at < SUSPENSIONS_MAX, "it does not come to an end"
        traces = Traces()
        try:
            with OneAtATime():
                suspensions = asyncio.run(cancelled_once(scenario, place, at, mode))
            traces.check()
        except BaseException as error:
            error.add_note(f"{scenario}, on {place}, cancelled {mode} at suspension {at}")
            raise
        if suspensions < at:
            return at - 1
    raise AssertionError


def warm_up() -> None:
    """Compile, and open what a process opens once."""
    compile_kernels()
    with contextlib.suppress(AssertionError):
        asyncio.run(cancelled_once("push, Async", "threads", 0, ""))


def cases() -> Iterator[tuple[str, str, str]]:
    """Scenario, place, mode."""
    return itertools.product(SCENARIOS, PLACES, MODES)


def main() -> int:
    """Prints how many suspensions each case had. Returns how many cases failed."""
    warm_up()
    wanted, failed, total = sys.argv[1:], 0, 0
    for scenario, place, mode in cases():
        if wanted and scenario not in wanted:
            continue
        try:
            count = cancelled_everywhere(scenario, place, mode)
        except (Exception, Refused) as error:
            failed += 1
            print(
                f"FAILED {scenario}, {place}, {mode}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
            )
            continue
        total += count
        print(f"{count:4} {scenario}, {place}, {mode}")
    print(f"{total} cancellations, {failed} cases failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
