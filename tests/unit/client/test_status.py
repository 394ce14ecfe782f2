"""What `optimd status` makes of statuses, without a server."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import Any

import optimd
import pytest
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from optimd.commands import status
from optimd.results import HistoryEntry, JobStatus, WorkerStatus
from optimd.transport import CallLost, CallThrottled
from optimdpb.program.ending import complain
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.program import job_text

ADDRESS = "127.0.0.1:50051"
WAITING_FOR = "round 812 waits for w3 (last seen 4.1 s ago, lease 10 s)"

CHANGED = HistoryEntry("lr = constant(lr=0.1)", "0" * 32, 900, "ada@lab", 1e9, 3)


def worker(name: str, rank: int = 0, **fields: Any) -> WorkerStatus:
    good = WorkerStatus(name, epoch=7, rank=rank, last_seq=812, member=True, lease_left_s=9.25, rejections=0)
    return replace(good, **fields)


def crew(count: int) -> tuple[WorkerStatus, ...]:
    return tuple(worker(f"w{rank:03}", rank) for rank in range(count))


def job(*workers: WorkerStatus, **fields: Any) -> JobStatus:
    training = JobStatus(
        state="ready",
        lineage="0123456789abcdef" * 2,
        global_step=812,
        learning_rate=9.371e-4,
        loss=0.08972,
        applied=3244,
        discarded=5,
        rejected=4,
        duplicates=3,
        rounds_void=2,
        workers=workers,
        waiting_for="",
    )
    return replace(training, **fields)


def table(text: str) -> list[str]:
    """The heading and the rows of the table of workers."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("  worker "))
    return [line for line in lines[start:] if not line.startswith("  ...")]


def test_a_job_in_full() -> None:
    near = {"transport": "shared_memory", "transport_detail": "on the server's own machine"}
    far = {"transport": "grpc", "transport_detail": "the server is not on this machine"}
    silent = {"last_push_ago_s": 240.04, "idle_s": 238.5}
    behind = worker("w3", 1, last_seq=811, lease_left_s=5.87, member=False, rejections=2, **far, **silent)
    workers = (worker("w0", **near), behind, worker("w4", 2))
    assert job_text("digits", job(*workers, waiting_for=WAITING_FOR)) == (
        "digits: ready, global step 812, lineage 01234567\n"
        "  last round: learning rate 0.0009371, loss 0.08972\n"
        "  pushes: 3244 applied, 5 discarded, 4 rejected, 3 duplicates; 2 void rounds\n"
        f"  waiting for: {WAITING_FOR}\n"
        "  worker  rank  epoch  last seq  lease left  last push     idle  in round  rejected running  transport\n"
        "  w0         0      7       812       9.2 s      0.0 s           yes                      0  shared memory\n"
        "  w3         1      7       811       5.9 s    240.0 s  238.5 s  no                       2  grpc           "
        "the server is not on this machine\n"
        "  w4         2      7       812       9.2 s      0.0 s           yes                      0\n"
    )


def test_what_did_not_fit_the_answer_is_counted() -> None:
    text = job_text("j", job(*crew(25), workers_left_out=1000, history=(CHANGED,), history_left_out=7))
    assert text.splitlines()[-1] == "  ... and 1005 more"
    assert "  changes left out, the oldest: 7\n  revision 3 " in text


def test_what_is_not_there_is_not_shown() -> None:
    text = job_text("new", job(state="initializing", lineage="", global_step=0, learning_rate=None, loss=None))
    assert text.splitlines()[:2] == ["new: initializing, global step 0", "  no round applied yet"]
    assert text.endswith("  no live workers\n")
    for absent in ("None", "waiting for", "lineage", "loss"):
        assert absent not in text


def test_schedules_and_changes_are_shown() -> None:
    ready = replace(CHANGED, change="ready", step=0, requester="", unix_s=0.0, revision=0)
    held = replace(CHANGED, change="paused", step=800, requester="", revision=2)
    schedules = {"beta1": "constant(lr=0.8)", "lr": "sgdr(lr_max=0.001, lr_min=1e-05, period=500)"}
    text = job_text("j", job(schedules=schedules, history=(ready, held, CHANGED)))
    asked = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1e9))
    assert text.splitlines()[3:7] == [
        "  lr: sgdr(lr_max=0.001, lr_min=1e-05, period=500)",
        "  beta1: constant(lr=0.8)",
        f"  revision 2 holds from step 800: paused ({asked})",
        f"  revision 3 will hold from step 900: lr = constant(lr=0.1) ({asked} by ada@lab)",
    ]


def test_a_round_without_a_loss() -> None:
    text = job_text("j", job(loss=None))
    assert "learning rate 0.0009371\n" in text
    assert "loss" not in text


@pytest.mark.parametrize(("rejections", "marked"), [(0, False), (2, False), (3, True), (40, True)])
def test_a_worker_rejected_again_and_again_is_marked(rejections: int, marked: bool) -> None:
    _, w0, w1 = table(job_text("j", job(worker("w0"), worker("w1", 1, rejections=rejections))))
    assert w1.endswith(f"{rejections} pushes running rejected: is it broken?") == marked
    assert "broken" not in w0


@pytest.mark.parametrize(("count", "shown", "more"), [(1, 1, ""), (20, 20, ""), (21, 20, "1"), (500, 20, "480")])
def test_at_most_twenty_workers_are_shown(count: int, shown: int, more: str) -> None:
    text = job_text("j", job(*crew(count)))
    assert [row.split()[0] for row in table(text)[1:]] == [f"w{rank:03}" for rank in range(shown)]
    assert text.endswith(f"  ... and {more} more\n") == bool(more)
    assert ("more" in text) == bool(more)


def test_a_broken_worker_does_not_hide_behind_many_good_ones() -> None:
    workers = [*crew(99), worker("w099", 99, rejections=3)]
    rows = table(job_text("j", job(*workers)))[1:]
    assert [row.split()[0] for row in rows] == [*(f"w{rank:03}" for rank in range(19)), "w099"]
    assert "is it broken?" in rows[-1]


def test_columns_stand_under_each_other_whatever_the_names_and_numbers() -> None:
    names = ["a", "b" * 128, "host-1.rack:7/gpu_0", "worker-of-middling-length"]
    workers = [
        worker(
            name,
            9 * 10**rank,
            epoch=10 ** (5 * rank),
            last_seq=2 ** (17 * rank),
            lease_left_s=10.0**rank,
            transport="shared_memory",
        )
        for rank, name in enumerate(names)
    ]
    heading, *rows = table(job_text("j", job(*workers)))
    assert [row.split()[0] for row in rows] == names
    assert {row.index("shared memory") for row in rows} == {heading.index("transport")}
    for word in ("rank", "epoch", "last seq", "lease left"):
        end = heading.index(word) + len(word)
        assert all(row[end - 1] != " " and row[end : end + 2] == "  " for row in rows)
    assert {row[heading.index("in round") :][:5] for row in rows} == {"yes  "}


def test_control_characters_of_strangers_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """A worker's name, a requester, a reason, an error: each may clear the screen or make up a line."""
    evil = "\x1b[2J\x9b\u202e\nwaiting for: nothing"
    shown = "\\x1b[2J\\x9b\\u202e\\nwaiting for: nothing"
    stranger = worker(evil, transport="grpc", transport_detail=evil)
    changed = replace(CHANGED, requester=evil, change=evil)
    whole = job(stranger, waiting_for=evil, history=(changed,), schedules={evil: evil}, state=evil, lineage="")
    text = job_text(evil, whole)
    assert text.count(shown) == 9
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == len(
        job_text("j", job(worker("w"), waiting_for="x", history=(CHANGED,), schedules={"x": "y"})).splitlines()
    )

    complain("optimd status", optimd.Refused("UNKNOWN_JOB", f"got {evil}"), as_json=False)
    assert capsys.readouterr().err == "optimd status: got \\x1b[2J\\x9b\\u202e waiting for: nothing\n"


def test_every_job_has_its_part() -> None:
    lines = [line for line, _ in status.lines_of(ADDRESS, {"a": job(), "b": job(state="finished")})]
    text = "\n".join(lines)
    first, second = text.split("\n\n")
    assert first.startswith("a: ready")
    assert second.startswith("b: finished")
    assert list(status.lines_of(ADDRESS, {})) == [(f"no jobs on {ADDRESS}", "")]


def test_json_has_everything_under_names_that_stay() -> None:
    changes = {"revision": 3, "schedules": {"lr": "constant(lr=0.1)"}, "history": (CHANGED,)}
    text = status.json_of(ADDRESS, {"j": job(*crew(50), waiting_for=WAITING_FOR, **changes), "k": job(loss=None)})
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    told = json.loads(text)
    assert told.keys() == {"address", "jobs"}
    first, second = told["jobs"]
    assert len(first.pop("workers")) == 50
    assert first == {
        "job": "j",
        "state": "ready",
        "lineage": "0123456789abcdef" * 2,
        "global_step": 812,
        "learning_rate": 9.371e-4,
        "loss": 0.08972,
        "applied": 3244,
        "discarded": 5,
        "rejected": 4,
        "duplicates": 3,
        "rounds_void": 2,
        "waiting_for": WAITING_FOR,
        "revision": 3,
        "schedules": {"lr": "constant(lr=0.1)"},
        "history": [asdict(CHANGED)],
        "failure": "",
        "workers_left_out": 0,
        "history_left_out": 0,
        "steps_max": None,
    }
    assert (second["job"], second["loss"], second["workers"]) == ("k", None, [])


def test_json_of_a_worker() -> None:
    distant = worker("w0", rejections=3, transport="grpc", transport_detail="far away")
    told = json.loads(status.json_of(ADDRESS, {"j": job(distant)}))
    assert told["jobs"][0]["workers"] == [
        {
            "worker": "w0",
            "epoch": 7,
            "rank": 0,
            "last_seq": 812,
            "member": True,
            "lease_left_s": 9.25,
            "rejections": 3,
            "transport": "grpc",
            "transport_detail": "far away",
            "last_push_ago_s": 0.0,
            "idle_s": None,
        }
    ]
    assert json.loads(status.json_of(ADDRESS, {})) == {"address": ADDRESS, "jobs": []}


class Pages:
    """A transport to a server that lists two jobs a page, and fails first as told."""

    def __init__(self, *names: str, fail: Exception | None = None) -> None:
        self.names = names
        self.fail = fail
        self.asked: list[str] = []

    def call(self, method: str, request: Message, timeout_s: float) -> Any:
        assert 0 < timeout_s <= 5
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        if isinstance(request, pb.ListJobsRequest):
            start = int(request.page_token or 0)
            rest = self.names[start:]
            token = str(start + 2) if len(rest) > 2 else ""
            return pb.ListJobsResponse(jobs=[pb.JobSummary(job=name) for name in rest[:2]], next_page_token=token)
        assert isinstance(request, pb.GetJobRequest)
        self.asked.append(request.job)
        half, long = duration_pb2.Duration(nanos=500_000_000), duration_pb2.Duration(seconds=240)
        live = pb.WorkerStatus(worker="w0", epoch=3, member=True, lease_left=half, last_push_ago=long, idle=half)
        report = pb.GetJobResponse(state=pb.JOB_STATE_READY, workers=[live])
        report.workers_left_out, report.history_left_out = 4, 5
        return report


def look(pages: Pages, job: str | None = None) -> dict[str, JobStatus]:
    return status.look(pages, ADDRESS, job)  # type: ignore[arg-type]


def test_all_pages_are_read() -> None:
    pages = Pages("a", "b", "c", "d", "e")
    jobs = look(pages)
    assert list(jobs) == pages.asked == ["a", "b", "c", "d", "e"]
    (live,) = jobs["e"].workers
    assert live == WorkerStatus("w0", 3, 0, 0, True, 0.5, 0, last_push_ago_s=240.0, idle_s=0.5)
    assert (jobs["e"].workers_left_out, jobs["e"].history_left_out) == (4, 5)
    assert look(Pages()) == {}


def test_one_job_is_asked_for_alone() -> None:
    pages = Pages("a", "b", "c")
    assert list(look(pages, "c")) == pages.asked == ["c"]


def test_an_unknown_job_is_told_with_those_there_are() -> None:
    with pytest.raises(status.UnknownJob, match=r"expected a job of 127.0.0.1:50051, got 'x'; it has a, b$"):
        look(Pages("a", "b"), "x")
    with pytest.raises(status.UnknownJob, match=r"it has none$"):
        look(Pages(), "x")
    with pytest.raises(status.UnknownJob, match=r"it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2 more$"):
        look(Pages(*map(str, range(12))), "x")


def test_a_full_server_is_asked_again_and_a_lost_one_is_not() -> None:
    assert list(look(Pages("a", fail=CallThrottled("calls_max", 0.01)))) == ["a"]
    with pytest.raises(optimd.ServerUnavailable, match=f"expected a server at {ADDRESS}, it cannot be reached: gone"):
        look(Pages("a", fail=CallLost("gone")))
