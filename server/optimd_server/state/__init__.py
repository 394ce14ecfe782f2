"""Parameters, slots and staged gradients in memory, as flat float32 vectors cut into shards."""

from optimd_server.state.pieces import piece_bounds, split_evenly
from optimd_server.state.shard import Shard
from optimd_server.state.staging import StagedGradient

__all__ = ["Shard", "StagedGradient", "piece_bounds", "split_evenly"]
