"""Schedules: pure functions of the global step, one evaluator for each specification class."""

from optimd_server.schedules.evaluate import value_at

__all__ = ["value_at"]
