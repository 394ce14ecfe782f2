"""Snapshots on disk: written aside, renamed when whole, verified before they are believed."""

from optimd_server.storage.base import STARTS_MAX, Store, Stored
from optimd_server.storage.directory import DataDirectory
from optimd_server.storage.snapshot import ShardImage, Snapshot, read_snapshot, vector_names, write_snapshot

__all__ = [
    "STARTS_MAX",
    "DataDirectory",
    "ShardImage",
    "Snapshot",
    "Store",
    "Stored",
    "read_snapshot",
    "vector_names",
    "write_snapshot",
]
