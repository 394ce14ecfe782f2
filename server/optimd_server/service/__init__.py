"""gRPC: decode, one call into the runtime, encode. Errors are mapped in one place."""

from optimd_server.service.app import Service

__all__ = ["Service"]
