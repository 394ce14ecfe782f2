"""The only place with threads, clock and queues: carries out the core's effects on shards."""

from optimd_server.config import ServerConfig
from optimd_server.runtime.host import JobHost
from optimd_server.runtime.server import Runtime

__all__ = ["JobHost", "Runtime", "ServerConfig"]
