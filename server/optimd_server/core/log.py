"""Events as plain values and back, and a machine rebuilt from them: what happened to a job, to be looked at again.

The core has no clock, chance or I/O, so the same events at the same times are the same state and the same effects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import numpy as np
from optimdpb.errors import Refused
from optimdpb.specs.text import schedule_from_text, schedule_to_text

from optimd_server.core.effects import Effect
from optimd_server.core.events import Event, Prepared, Push, UpdateRequested, Version
from optimd_server.core.job import JobMachine

Plain = dict[str, Any]

_CLASSES: dict[str, type] = {kind.__name__: kind for kind in get_args(Event)}


def plain_event(event: Event) -> Plain:
    """Dicts, lists, numbers and strings, every number kept exactly."""
    fields = dataclasses.asdict(event)
    if isinstance(event, Prepared):
        fields["sums"] = event.sums.tolist()
    if isinstance(event, UpdateRequested):
        fields["schedules"] = [[name, schedule_to_text(schedule)] for name, schedule in event.schedules]
    return {"event": type(event).__name__, **fields}


def event_of(plain: Plain) -> Event:
    """The event of plain_event(). Raises KeyError, TypeError for anything else."""
    fields = dict(plain)
    kind = _CLASSES[fields.pop("event")]
    if "push" in fields:
        push = dict(fields["push"])
        fields["push"] = Push(**{**push, "base": Version(**push["base"])})
    if "sums" in fields:
        fields["sums"] = np.array(fields["sums"], np.float64)
    if "schedules" in fields:
        texts = fields["schedules"]
        fields["schedules"] = tuple((name, schedule_from_text(text, characters_max=None)) for name, text in texts)
    event: Event = kind(**fields)
    return event


def replay(
    machine: JobMachine, events: Iterable[tuple[float, Plain]]
) -> Iterator[tuple[Event, list[Effect] | Exception]]:
    """Feed (now_s, plain event) to a machine that has seen none, or was restored as the logged one was.

    Yields each event with its effects, or with its refusal. One that the machine fails over, or whose invariants do not
    hold behind it, is the last and comes with that error.
    """
    for now_s, plain in events:
        event = event_of(plain)
        try:
            effects = machine.handle(event, now_s)
            machine.check_invariants()
        except Refused as error:
            yield event, error
        except Exception as error:
            yield event, error
            return
        else:
            yield event, effects
