"""What the model of a job in machine_model.py is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from optimd_server.core.effects import Outcome, Reason
from optimd_server.core.events import Push, UpdateRequested

Epoch = tuple[str, int]
Key = tuple[str, int, int]


class Refusal(Exception):
    """The event must be refused for this reason and change nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Life:
    """A live epoch. `clock`: outcomes since it joined, from the slowest one's on."""

    epoch: int
    until_s: float
    rejections: int = 0
    clock: int = 0


@dataclass(eq=False)
class Word:
    """A push that was taken and has no outcome yet. `bad`: why it is unusable."""

    push: Push
    magnitude: float
    bad: Reason | None = None
    in_round: bool = False

    @property
    def epoch(self) -> Epoch:
        """Whose it is."""
        return self.push.worker, self.push.epoch


@dataclass
class Account:
    """Pushes of one epoch. `taken`: the last seq that was."""

    taken: int = 0
    word: Word | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)


@dataclass
class Command:
    """A Prepare, or an Apply if `rate` is there. `parts`: (worker, epoch, seq, scale, share, base step)."""

    step: int
    parts: tuple[tuple[str, int, int, float, float, int], ...]
    rate: float | None = None
    limit: float = 1.0


@dataclass
class Due:
    """What one event must bring about. Outcomes have no detail here.

    `rank`: that of who joins, and of how many; `freed`: epochs whose staging is dropped; `change`: revision and step of
    a change that was asked for.
    """

    reply: str = ""
    rank: tuple[int, int] | None = None
    settled: dict[Key, Outcome] = field(default_factory=dict)
    told: set[Key] = field(default_factory=set)
    commands: list[Command] = field(default_factory=list)
    members: list[tuple[str, int, str]] = field(default_factory=list)
    freed: set[Epoch] = field(default_factory=set)
    loss: float | None = None
    change: tuple[int, int] | None = None


@dataclass(frozen=True)
class Request:
    """A change that was taken: what was asked for, its revision, and the step from which it holds."""

    event: UpdateRequested
    revision: int
    at_step: int
