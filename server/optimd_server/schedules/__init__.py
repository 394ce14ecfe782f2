"""Schedules: pure functions of the global step, one maker of functions for each specification class."""

from optimd_server.schedules.evaluate import MomentumOf, RateOf, momentum_of, plateau_at, rate_of, value_at
from optimd_server.schedules.plateau import PlateauState

__all__ = ["MomentumOf", "PlateauState", "RateOf", "momentum_of", "plateau_at", "rate_of", "value_at"]
