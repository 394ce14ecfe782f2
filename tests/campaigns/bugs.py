"""Defects that a campaign of interrupts must find: each is put in, and the books do not add up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from optimd.delivery import Delivery
from optimd.encoding import Int8Blocks
from optimd.membership import Membership
from optimd.pusher import Pusher
from optimd.transport.local import LocalConnection

Bug = Callable[[], contextlib.AbstractContextManager[Any]]
# Name of the defect -> it, and the way and the call that find it.
BUGS: dict[str, tuple[Bug, str, str]] = {}


def bug(way: str, call: str) -> Callable[[Bug], Bug]:
    """Found over that way by that call."""

    def note(make: Bug) -> Bug:
        BUGS[make.__name__] = make, way, call
        return make

    return note


@bug("unary", "push")
def a_push_is_forgotten_before_its_seq_is_used_up() -> Any:
    """The next gradient goes out under the same seq and gets the outcome of this one."""
    real = Pusher._settle

    def settle(self: Pusher, *arguments: Any, **options: Any) -> None:
        self._open = None
        real(self, *arguments, **options)

    return patch.object(Pusher, "_settle", settle)


@bug("unary", "step")
def a_push_is_noted_once_it_is_answered() -> Any:
    """An interrupt before leaves no trace of it."""

    def deliver(self: Pusher, delivery: Delivery, *, pull: bool) -> Any:
        answer, parameters = delivery.run(lambda delivery: self._send(delivery, pull=pull))
        self._settle(delivery, answer, is_clean=True)
        return answer, parameters

    return patch.object(Pusher, "_deliver", deliver)


@bug("unary", "ensure_job")
def the_old_epoch_counts_while_a_join_is_on_its_way() -> Any:
    """An interrupt leaves a worker that its own Join has fenced."""
    real = Membership.join

    def join(self: Membership) -> int:
        before = self.member
        try:
            return real(self)
        except BaseException:
            self.member = before
            raise

    return patch.object(Membership, "join", join)


@bug("unix socket", "step")
def a_connection_is_used_again_whatever_became_of_the_last_call() -> Any:
    """The next call takes the answer to the one that was cut off."""

    def call(self: LocalConnection, method: str, request: bytes, timeout_s: float) -> bytes:
        from optimdpb import local

        self._socket.settimeout(timeout_s)
        self._socket.sendall(b"".join(local.request(method, request)))
        answered, message = local.response_of(self._receive())
        assert answered
        return message

    return patch.object(LocalConnection, "call", call)


@bug("int8", "push")
def residuals_are_swapped() -> Any:
    """Done twice, it takes back what it did."""

    def settled(self: Int8Blocks, applied: bool, *, is_clean: bool = True) -> None:
        if applied:
            after = self._push.lost_after
            self._lost, self._push.lost_after = after, self._lost
            self._spare = self._push.lost_after
        self._is_open = False

    return patch.object(Int8Blocks, "settled", settled)


@bug("unary", "fence what comes late")
def a_push_that_was_never_taken_is_not_fenced() -> Any:
    """Its bytes may come late, under the seq of the next gradient."""

    def settle_open(self: Pusher) -> None:
        if self._open is not None:
            self._settle(self._open, self._open.resolve(), is_clean=False)

    return patch.object(Pusher, "_settle_open", settle_open)
