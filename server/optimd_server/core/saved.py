"""A job's state as plain values and back: all that a snapshot must hold beside vectors and specification.

A range test on its way is not part of it; one that has ended is. Pushes without an outcome are not part of it: their
seq counts as never taken, and their workers send them again.
"""

from __future__ import annotations

from typing import Any

from optimd_server.core.effects import Contribution, RoundRecord
from optimd_server.core.job import JobMachine
from optimd_server.core.range_test import RangeTest
from optimd_server.core.state import Counters, HistoryEntry, JobState

Plain = dict[str, Any]


def saved_state(machine: JobMachine) -> Plain:
    """The state at this moment as dicts, lists, numbers and strings. Every number is kept exactly."""
    state = machine.state
    return {
        "lineage": state.lineage,
        "step": state.step,
        "rule_count": state.rule_count,
        "memories": [list(memory) for memory in state.memories],
        "opened": state.opened,
        "counters": dict(vars(state.counters)),
        "last_round": None if state.last_round is None else _plain_round(state.last_round),
        "clock": state.clock.saved(),
        "range_test": None if state.range_test is None or state.range_test.active else state.range_test.saved(),
        "history": [dict(vars(entry)) for entry in state.history],
        "members": state.members.saved(),
        "ledger": state.ledger.saved(),
        "rounds": machine.rounds.saved(),
    }


def restore(machine: JobMachine, saved: Plain, now_s: float, fresh_lineage: str | None) -> None:
    """Continue a saved job in a machine that has seen no event yet; leases start anew.

    fresh_lineage: given if what came after the snapshot is lost. Then the history forks: no epoch of before is live any
    more, so that every worker joins again, but outcomes that the snapshot holds are told as ever, because its history
    holds their updates. The machine's epochs_from must be above all that were given out. Raises KeyError, TypeError or
    ValueError for values that no saved_state() made, leaving the machine unusable.
    """
    state = machine.state
    state.creation.ready = True
    state.lineage = str(saved["lineage"]) if fresh_lineage is None else fresh_lineage
    state.step, state.rule_count = int(saved["step"]), int(saved["rule_count"])
    state.restored_step = state.step
    state.memories = _memories(state, saved["memories"])
    state.opened = bool(saved["opened"])
    state.counters = Counters(**saved["counters"])
    state.last_round = None if saved["last_round"] is None else _round(saved["last_round"])
    state.history = [HistoryEntry(**entry) for entry in saved["history"]]
    state.clock.restore(saved["clock"])
    state.range_test = None if saved["range_test"] is None else RangeTest.restored(saved["range_test"])
    state.members.restore(saved["members"], now_s)
    machine.start_clock(now_s)
    state.ledger.restore(saved["ledger"])
    if fresh_lineage is not None:
        for member in state.members:
            state.ledger.retire(member.worker, member.epoch)
        state.members.forget_all()
    machine.rounds.restore(saved["rounds"])
    state.note("restored" if fresh_lineage is None else "restored with loss")


def _memories(state: JobState, saved: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    memories = tuple(tuple(float(number) for number in memory) for memory in saved)
    if [len(memory) for memory in memories] != [len(memory) for memory in state.memories]:
        raise ValueError(f"expected memories like {state.memories}, got {memories}")
    return memories


def _plain_round(record: RoundRecord) -> Plain:
    """The outcomes are in the ledger already."""
    return {
        "step": record.step,
        "learning_rate": record.learning_rate,
        "rule_count": record.rule_count,
        "memories": [list(memory) for memory in record.memories],
        "loss": record.loss,
        "contributions": [dict(vars(part)) for part in record.contributions],
        "hyper_parameters": [list(value) for value in record.hyper_parameters],
    }


def _round(saved: Plain) -> RoundRecord:
    memories = tuple(tuple(memory) for memory in saved["memories"])
    parts = tuple(Contribution(**part) for part in saved["contributions"])
    values = tuple((name, value) for name, value in saved["hyper_parameters"])
    known = {"memories": memories, "contributions": parts, "hyper_parameters": values, "outcomes": ()}
    return RoundRecord(**{**saved, **known})
