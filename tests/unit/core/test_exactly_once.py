"""Duplicates, gaps, fences and leases: one outcome for each seq, and a refused request changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from optimd_server.core import JobMachine, ledger
from optimd_server.core.effects import (
    AlreadyReady,
    Answered,
    Pending,
    Proceed,
    Reason,
    Status,
    UploadAwaited,
    UploadNamed,
)
from optimd_server.core.events import (
    CreateRequested,
    JoinRequested,
    LeaveRequested,
    PushCommitted,
    PushOffered,
    SignOfLife,
    Ticked,
    UploadCompleted,
    UploadProgressed,
    Version,
)
from optimd_server.core.ledger import OUTCOMES_KEPT
from optimdpb.errors import EpochSuperseded, LeaseExpired, Refused
from optimdpb.specs import Sync

from tests.unit.core.conftest import LEASE_S, TICK_S, Job


def snapshot(job: Job) -> Any:
    """Everything the machine knows, for comparison."""
    state, rounds = job.machine.state, job.machine.rounds
    return copy.deepcopy(
        (
            state.lineage,
            state.step,
            state.rule_count,
            vars(state.counters),
            state.members.__dict__,
            {key: vars(account) for key, account in state.ledger._accounts.items()},
            vars(state.creation),
            rounds.round,
            rounds.held,
            rounds.closing,
        )
    )


def solo() -> Job:
    """Sync(1) with worker a joined and one push applied."""
    job = Job(consistency=Sync(1)).ready()
    job.join("a")
    job.push("a")
    return job


def test_a_duplicate_gets_the_stored_outcome_and_changes_nothing() -> None:
    job = solo()
    push = job.push_of("a", seq=1, base_step=0)
    for event in (PushOffered(push), PushCommitted(push, 1.0)):
        (answer,) = job.send(event)
        assert isinstance(answer, Answered)
        assert answer.duplicate
        assert answer.outcome == job.outcome("a", seq=1)
    assert job.machine.version.step == 1
    assert len(job.commands()) == 1
    assert job.machine.state.counters.duplicates == 2


def test_a_duplicate_of_a_waiting_push_waits_too() -> None:
    job = Job().ready()
    job.join("a", "b")
    job.push("a")
    push = job.push_of("a", seq=1)
    assert job.send(PushOffered(push)) == [Pending()]
    assert job.send(PushCommitted(push, 1.0)) == [Pending()]
    job.push("b")
    assert len(job.commands()) == 1
    assert job.outcome("a").status is Status.APPLIED  # type: ignore[union-attr]


def test_the_table_of_outcomes_is_bounded_and_never_reopened() -> None:
    job = solo()
    for _ in range(OUTCOMES_KEPT + 3):
        job.push("a")
    with pytest.raises(Refused) as caught:
        job.send(PushOffered(job.push_of("a", seq=1, base_step=0)))
    assert caught.value.reason == "SEQ_FORGOTTEN"
    assert job.machine.version.step == OUTCOMES_KEPT + 4


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gap", {"seq": 3}, "SEQ_GAP"),
    ("seq 0", {"seq": 0}, "INVALID_PUSH"),
    ("weight 0", {"weight": 0.0}, "INVALID_PUSH"),
    ("weight nan", {"weight": float("nan")}, "INVALID_PUSH"),
    ("weight inf", {"weight": float("inf")}, "INVALID_PUSH"),
    ("epoch 0", {"epoch": 0}, "NOT_JOINED"),
    ("epoch 99", {"epoch": 99}, "NOT_JOINED"),
]


@pytest.mark.parametrize(("name", "fields", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_refused_push_changes_nothing(name: str, fields: dict[str, Any], reason: str) -> None:
    job = solo()
    job.seqs["a", fields.get("epoch", 0)] = 1
    before = snapshot(job)
    push = job.push_of("a", **{"seq": 2, **fields})
    for event in (PushOffered(push), PushCommitted(push, 1.0)):
        with pytest.raises(Refused) as caught:
            job.send(event)
        assert caught.value.reason == reason
    assert snapshot(job) == before


def test_one_push_in_flight() -> None:
    job = Job().ready()
    job.join("a", "b")
    job.push("a")
    before = snapshot(job)
    with pytest.raises(Refused) as caught:
        job.send(PushOffered(job.push_of("a", seq=2)))
    assert caught.value.reason == "PUSH_IN_FLIGHT"
    assert snapshot(job) == before


def test_another_lineage_is_discarded_and_consumed() -> None:
    job = solo()
    job.push("a", base=Version("other", 1))
    assert job.outcome("a").reason is Reason.LINEAGE_CHANGED  # type: ignore[union-attr]
    job.push("a")
    assert job.outcome("a").status is Status.APPLIED  # type: ignore[union-attr]


def test_a_newer_epoch_fences_the_older() -> None:
    job = solo()
    old = job.epochs["a"]
    job.join("a")
    assert job.epochs["a"] > old
    for event in (SignOfLife("a", old), LeaveRequested("a", old), PushOffered(job.push_of("a", epoch=old))):
        with pytest.raises(EpochSuperseded):
            job.send(event)
    job.push("a")
    assert job.outcome("a", seq=1).status is Status.APPLIED  # type: ignore[union-attr]
    remembered = job.machine.outcome_of("a", old, 1)
    assert remembered == job.outcomes["a", old, 1], "the old epoch's outcome is still told"


def test_a_lease_ends_and_no_heartbeat_revives_it() -> None:
    job = solo()
    job.wait(LEASE_S)
    job.send(SignOfLife("a", job.epochs["a"]))
    job.wait(LEASE_S + TICK_S)
    assert len(job.machine.state.members) == 0
    for event in (SignOfLife("a", job.epochs["a"]), PushOffered(job.push_of("a"))):
        with pytest.raises(LeaseExpired):
            job.send(event)
    assert len(job.machine.state.members) == 0
    job.join("a")
    assert job.machine.outcome_of("a", job.epochs["a"], 1) is None


def test_a_stalled_server_expires_nobody() -> None:
    job = solo()
    job.send(Ticked())
    job.now_s += 1000 * LEASE_S
    job.send(Ticked())
    assert len(job.machine.state.members) == 1
    job.wait(LEASE_S + 2 * TICK_S)
    assert len(job.machine.state.members) == 0


def test_a_push_after_leaving_is_refused() -> None:
    job = solo()
    job.leave("a")
    with pytest.raises(Refused) as caught:
        job.send(PushOffered(job.push_of("a")))
    assert caught.value.reason == "NOT_JOINED"


def test_leaving_twice_is_leaving_once() -> None:
    job = solo()
    job.leave("a")
    before = snapshot(job)
    assert job.send(LeaveRequested("a", job.epochs["a"])) == []
    assert snapshot(job) == before


def test_leaving_again_does_not_end_the_next_epoch() -> None:
    job = solo()
    left = job.epochs["a"]
    job.leave("a")
    job.join("a")
    with pytest.raises(EpochSuperseded):
        job.send(LeaveRequested("a", left))
    assert job.machine.state.members.is_live("a", job.epochs["a"])


def test_an_epoch_of_another_worker_was_never_this_one_s() -> None:
    job = Job(consistency=Sync(2)).ready()
    job.join("b", "a")
    with pytest.raises(Refused) as caught:
        job.send(SignOfLife("a", job.epochs["b"]))
    assert caught.value.reason == "NOT_JOINED"


def test_an_epoch_that_is_forgotten_was_superseded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever held it must stop: it may not be told to join again, and so take the name over."""
    monkeypatch.setattr(ledger, "DEAD_EPOCHS_KEPT", 1)
    job = Job(consistency=Sync(2)).ready()
    job.join("a")
    first = job.epochs["a"]
    job.join("a", "a", "a")
    assert job.machine.state.ledger.find("a", first) is None
    with pytest.raises(EpochSuperseded):
        job.send(SignOfLife("a", first))


def test_an_epoch_of_an_earlier_server_was_superseded_and_one_that_no_server_gives_never_was() -> None:
    machine = JobMachine(Job().machine.state.spec, lease_s=10.0, tick_interval_s=1.0, epochs_from=7 << 32)
    job = Job()
    job.machine = machine
    job.ready().join("a")
    with pytest.raises(EpochSuperseded):
        job.send(SignOfLife("a", (6 << 32) + 5))
    with pytest.raises(Refused) as caught:
        job.send(SignOfLife("a", 99))
    assert caught.value.reason == "NOT_JOINED"


def test_an_epoch_that_goes_between_offer_and_commit_commits_nothing() -> None:
    job = solo()
    push = job.push_of("a")
    assert Proceed() in job.send(PushOffered(push))
    job.leave("a")
    with pytest.raises(Refused):
        job.send(PushCommitted(push, 1.0))
    assert job.machine.version.step == 1


def test_asking_for_outcomes() -> None:
    job = Job().ready()
    job.join("a", "b")
    job.push("a")
    epoch = job.epochs["a"]
    assert job.machine.outcome_of("a", epoch, 1) == Pending()
    assert job.machine.outcome_of("a", epoch, 2) is None
    with pytest.raises(Refused):
        job.machine.outcome_of("a", epoch + 50, 1)


def test_one_uploader_at_a_time() -> None:
    job = Job()
    (named, _) = job.send(CreateRequested("w0"))
    assert isinstance(named, UploadNamed)
    assert job.send(CreateRequested("w1")) == [UploadAwaited()]
    with pytest.raises(Refused):
        job.send(JoinRequested("w0"))
    job.now_s += LEASE_S - 1
    job.send(UploadProgressed(named.token))
    job.now_s += LEASE_S - 1
    assert job.send(CreateRequested("w1")) == [UploadAwaited()]
    job.now_s += 2
    (next_named, _) = job.send(CreateRequested("w1"))
    assert isinstance(next_named, UploadNamed)
    assert next_named.token > named.token
    for event in (UploadProgressed(named.token), UploadCompleted(named.token, "x")):
        with pytest.raises(Refused) as caught:
            job.send(event)
        assert caught.value.reason == "NOT_UPLOADER"
    job.send(UploadCompleted(next_named.token, "y"))
    assert job.send(CreateRequested("w0")) == [AlreadyReady()]
    assert job.machine.version == Version("y", 0)
    with pytest.raises(Refused):
        job.send(UploadCompleted(next_named.token, "z"))


def test_epochs_never_fall_across_tokens_and_joins() -> None:
    job = Job().ready()
    seen = [job.machine.state.creation.token]
    for _ in range(3):
        job.join("a")
        seen.append(job.epochs["a"])
    assert seen == sorted(set(seen))


def test_a_refusal_behind_a_change_is_a_defect_and_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller would be told that nothing has changed."""
    job = Job(consistency=Sync(1)).ready()
    job.join("w0")

    def refuse(*_: object) -> Any:
        raise Refused("INTERNAL", "no")

    monkeypatch.setattr(job.machine.rounds, "advance", refuse)
    with pytest.raises(AssertionError, match="refused behind a change"):
        job.push("w0")
