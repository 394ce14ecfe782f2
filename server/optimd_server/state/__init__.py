"""Parameters, slots and staged gradients in memory, as flat float32 vectors cut into shards."""

from optimd_server.state.pieces import piece_bounds, split_evenly
from optimd_server.state.shard import Shard
from optimd_server.state.shared import SharedSegment
from optimd_server.state.staging import Claim, SharedGradient, StagedGradient

__all__ = ["Claim", "Shard", "SharedGradient", "SharedSegment", "StagedGradient", "piece_bounds", "split_evenly"]
