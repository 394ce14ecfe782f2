"""Defects put in on purpose, to see that the simulation finds them: each is a patch of the real server or client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
from optimd.delivery import Delivery
from optimd.membership import Membership
from optimd.pusher import Pusher
from optimd_server.core import arithmetic
from optimd_server.core.asynchronous import AsyncRounds
from optimd_server.core.effects import Answered, Reason
from optimd_server.core.events import PushCommitted
from optimd_server.core.job import JobMachine
from optimd_server.core.ledger import Ledger
from optimd_server.core.members import Members
from optimd_server.core.rounds import Rounds
from optimd_server.core.ssp import SspRounds
from optimd_server.core.state import JobState
from optimd_server.core.sync import SyncRounds
from optimd_server.optimizers.compensation import compensate_blocks
from optimd_server.runtime import saver
from optimd_server.runtime.budget import StagingBudget
from optimd_server.runtime.host import JobHost
from optimd_server.runtime.server import Runtime
from optimd_server.service.payloads import PayloadService
from optimd_server.state import shard
from optimdpb.errors import Refused

Bug = Callable[[], contextlib.AbstractContextManager[Any]]
BUGS: dict[str, Bug] = {}


def bug(make: Bug) -> Bug:
    """Enter it under its name."""
    BUGS[make.__name__] = make
    return make


@bug
def requests_are_counted_instead_of_workers() -> Any:
    """A Sync round closes after as many pushes as it has members, whoever sent them."""
    real = SyncRounds.commit

    def commit(self: SyncRounds, committed: Any) -> None:
        real(self, committed)
        if self.round is not None and len(self.round.pushes) + len(self.held) >= len(self.round.members):
            self.round.awaited.clear()

    return patch.object(SyncRounds, "commit", commit)


@bug
def the_outcome_table_is_forgotten_on_restart() -> Any:
    """An orderly restart opens empty accounts for the live epochs."""

    def restore(self: Ledger, saved: Any) -> None:
        for entry in saved:
            self.open(entry["worker"], entry["epoch"])

    return patch.object(Ledger, "restore", restore)


@bug
def the_answer_goes_out_before_the_update() -> Any:
    """Who waits is told APPLIED as soon as the round is decided."""
    real = Rounds._close

    def close(self: Rounds, pushes: Any, factor: float = 1.0) -> Any:
        effects = real(self, pushes, factor)
        if self.closing is None:
            return effects
        early = [
            Answered(p.worker, p.epoch, self.state.outcome(pushes[p.worker].push, _applied(), Reason.NONE, ""))
            for p in self.closing.contributions
        ]
        return [*early, *effects]

    return patch.object(Rounds, "_close", close)


def _applied() -> Any:
    from optimd_server.core.effects import Status

    return Status.APPLIED


@bug
def ssp_lets_one_more_ahead() -> Any:
    """The bound is off by one."""

    def is_ahead(self: SspRounds, worker: str) -> bool:
        return not self.state.finished and self.clocks[worker] - self._slowest > self._bound + 1

    return patch.object(SspRounds, "_is_ahead", is_ahead)


@bug
def an_older_epoch_is_not_fenced() -> Any:
    """Two processes of one name are both taken for the member."""
    real = Members.check

    def check(self: Members, worker: str, epoch: int) -> Any:
        member = self.of(worker)
        return member if member is not None else real(self, worker, epoch)

    return patch.object(Members, "check", check)


@bug
def leases_run_while_the_server_stands_still() -> Any:
    """As with a lease on the wall clock: after a pause everybody has expired."""
    return patch.object(Members, "extend", lambda self, by_s: None)


@bug
def leases_never_end() -> Any:
    """Nobody is ever found expired."""
    return patch.object(Members, "expired", lambda self, now_s: [])


@bug
def a_heartbeat_revives_an_epoch() -> Any:
    """An expired member that is heard of again is live again."""
    real = Members.check

    def check(self: Members, worker: str, epoch: int) -> Any:
        gone = self._gone.get(worker)
        if gone is not None and gone.epoch == epoch and gone.gone == "expired":
            del self._gone[worker]
            gone.gone = ""
            self._live[worker] = gone
            self._names = sorted(self._live)
        return real(self, worker, epoch)

    return patch.object(Members, "check", check)


@bug
def late_gradients_count() -> Any:
    """Sync takes a gradient that was computed at older parameters."""
    return patch.object(SyncRounds, "too_old", lambda self, push: None)


@bug
def staleness_max_is_not_looked_at_again() -> Any:
    """Async checks the bound when a push comes, not when its turn comes."""

    def advance(self: AsyncRounds, now_s: float) -> Any:
        with patch.object(AsyncRounds, "too_old", lambda self, push: None):
            return real(self, now_s)

    real = AsyncRounds.advance
    return patch.object(AsyncRounds, "advance", advance)


@bug
def a_resent_push_counts_again() -> Any:
    """A push that has its outcome is taken for a new one when it comes again, if it comes first thing."""
    real = JobMachine._admit

    def admit(self: JobMachine, push: Any, now_s: float) -> Any:
        account = self.state.ledger.find(push.worker, push.epoch)
        if account is not None and push.seq == account.last_seq and not account.pending:
            account.last_seq -= 1
        return real(self, push, now_s)

    return patch.object(JobMachine, "_admit", admit)


@bug
def sums_go_in_the_order_of_arrival() -> Any:
    """The contributions of a round are not sorted by name."""
    real = arithmetic.contributions

    def contributions(pushes: Any, reduction: str, factor: float = 1.0) -> Any:
        arrived = [committed.push.worker for committed in pushes]
        parts = {part.worker: part for part in real(pushes, reduction, factor)}
        return tuple(parts[worker] for worker in arrived)

    return patch.object(arithmetic, "contributions", contributions)


@bug
def weights_are_forgotten() -> Any:
    """The mean is over workers, not over examples."""
    real = arithmetic.contributions

    def contributions(pushes: Any, reduction: str, factor: float = 1.0) -> Any:
        parts = real(pushes, reduction, factor)
        equal = float(np.float32(1 / len(parts))) if parts else 0.0
        return tuple(type(p)(p.worker, p.epoch, p.seq, equal * factor, equal, p.base_step) for p in parts)

    return patch.object(arithmetic, "contributions", contributions)


@bug
def the_learning_rate_is_that_of_the_next_step() -> Any:
    """lr(t + 1) is used for the update from t to t + 1."""
    from optimd_server.schedules import value_at

    return patch.object(JobState, "learning_rate", lambda self: value_at(self.spec.optimizer.lr, self.step + 1))


@bug
def staleness_is_scaled_off_by_one() -> Any:
    """1 / staleness instead of 1 / (1 + staleness)."""
    real = Rounds._close

    def close(self: Rounds, pushes: Any, factor: float = 1.0) -> Any:
        return real(self, pushes, float(np.float32(1 / (1 / factor - 1))) if factor < 0.9 else factor)

    return patch.object(Rounds, "_close", close)


@bug
def compensation_has_the_wrong_sign() -> Any:
    """w(base) - w(t) instead of w(t) - w(base)."""

    def compensate(gradient: Any, scale: Any, strength: Any, now: Any, base: Any, *rest: Any) -> None:
        compensate_blocks(gradient, scale, -strength, now, base, *rest)

    return patch.object(shard, "compensate_blocks", compensate)


@bug
def a_quorum_is_one_too_small() -> Any:
    """A round closes on one push fewer."""
    return patch.object(SyncRounds, "_pushes_enough", lambda self: (self.consistency.quorum or 2) - 1 or 1)


@bug
def a_member_that_left_is_waited_for() -> Any:
    """The round goes on waiting for a member that is gone."""
    real = SyncRounds.epoch_over

    def epoch_over(self: SyncRounds, member: Any, change: str) -> Any:
        awaited = set(self.round.awaited) if self.round is not None else set()
        effects = real(self, member, change)
        if self.round is not None:
            self.round.awaited |= awaited
        return effects

    checks = patch.object(SyncRounds, "check_invariants", lambda self: None)
    return both(patch.object(SyncRounds, "epoch_over", epoch_over), checks)


@bug
def epochs_start_again_after_a_crash() -> Any:
    """A server that lost something counts epochs from where its snapshot stood."""
    real = JobHost.__init__

    def init(self: JobHost, *arguments: Any) -> None:
        real(self, *arguments[:-1], 1)

    return patch.object(JobHost, "__init__", init)


@bug
def a_snapshot_is_taken_in_the_middle_of_an_update() -> Any:
    """It does not wait for the update on its way."""
    real = saver.image_of

    async def image_of(host: JobHost) -> Any:
        lock, host.slabs_still = host.slabs_still, asyncio.Lock()
        try:
            return await real(host)
        finally:
            host.slabs_still = lock

    return patch.object(saver, "image_of", image_of)


@bug
def leases_end_while_the_last_snapshot_is_written() -> Any:
    """A server that ends goes on ticking behind its last snapshot."""

    def freeze(self: Runtime) -> None:
        self.draining = True
        for host in self.jobs.values():
            host.freeze()

    return patch.multiple(Runtime, freeze=freeze)


@bug
def the_client_sends_again_without_asking() -> Any:
    """A push whose reply was lost goes out again under a fresh epoch, though it may have been taken."""

    def ask(self: Delivery) -> None:
        self.header.epoch, self.header.seq = self._members.join(), 1

    return patch.object(Delivery, "ask", ask)


@bug
def who_waits_for_an_outcome_never_joins_again() -> Any:
    """The lease ends while a push waits, and the round waits for one more live worker."""
    return patch.object(Membership, "expired", False)


@bug
def workers_that_are_gone_keep_their_room() -> Any:
    """What they committed counts against those who join, and the round waits for those."""
    return patch.object(StagingBudget, "promised_bytes", StagingBudget.used_bytes)


@bug
def the_client_reuses_a_seq() -> Any:
    """After a push that was given up and not taken, the next one goes out under the same seq."""

    def settle_open(self: Pusher) -> None:
        self._open = None

    return patch.object(Pusher, "_settle_open", settle_open)


@bug
def staging_of_a_broken_call_is_kept() -> Any:
    """What a call that broke had staged is not freed."""
    return patch.object(JobHost, "give_up", lambda self, staged: None)


@bug
def a_withheld_answer_asks_for_the_payload() -> Any:
    """The service goes by what is not there: no answer, so it reads and stages what is settled already."""

    async def step(self: PayloadService, request: Any) -> Any:
        host = self._runtime.job(request.message.header.job)
        real = host.handle

        def handle(event: Any) -> Any:
            from optimd_server.core.effects import Pending, Proceed
            from optimd_server.core.events import PushOffered

            effects = real(event)
            settled = any(isinstance(effect, Answered | Pending) for effect in effects)
            return [Proceed()] if isinstance(event, PushOffered) and not settled else effects

        with patch.object(host, "handle", handle):
            return await real_step(self, request)

    real_step = PayloadService.step
    return patch.object(PayloadService, "step", step)


@bug
def a_refused_push_consumes_its_seq() -> Any:
    """A push under a seq too high is refused, and the seqs before it are gone."""
    real = Ledger.check_next

    def check_next(self: Ledger, account: Any, seq: int, *, withheld: bool) -> Any:
        try:
            return real(self, account, seq, withheld=withheld)
        except Refused:
            account.last_seq += 1
            raise

    return patch.object(Ledger, "check_next", check_next)


@bug
def a_rejected_push_counts() -> Any:
    """NaN is taken for a number."""
    real = JobMachine._commit

    def commit(self: JobMachine, event: PushCommitted, now_s: float) -> Any:
        return real(self, PushCommitted(event.push, min(event.magnitude_max, 1.0)), now_s)

    return patch.object(JobMachine, "_commit", commit)


@bug
def a_void_round_counts_as_a_step() -> Any:
    """t moves though nothing was applied."""
    real = Rounds._void

    def void(self: Rounds, pushes: Any, culprits: Any) -> Any:
        effects = real(self, pushes, culprits)
        self.state.step += 1
        return effects

    return patch.object(Rounds, "_void", void)


@contextlib.contextmanager
def both(*patches: Any) -> Iterator[None]:
    """All of these."""
    with contextlib.ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield
