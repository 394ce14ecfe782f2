"""The state machine of a job, without I/O: handle(event, now_s) -> effects.

No clock, threads, randomness or grpc. Time and random ids come in with events; what must happen outside goes out as
effects, and its result comes back as another event.
"""

from optimd_server.core.job import JobMachine

__all__ = ["JobMachine"]
