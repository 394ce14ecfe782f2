"""Workers on the server's unix socket, and calls by hand on it, for tests."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import optimd
from optimdpb import local as frames
from optimdpb.checksum import crc32c
from optimdpb.frames import with_data
from optimdpb.v1 import optimd_pb2 as pb

ELEMENTS = 1_000
LEASE_S = 1.0


def joined(address: str, name: str = "w0", workers: int = 1, **options: Any) -> optimd.Worker:
    worker = optimd.connect(address, job="j", worker=name, **options)
    worker.ensure_job({"w": np.zeros(ELEMENTS, np.float32)}, optimd.SGD(0.5), optimd.Sync(workers))
    worker.pull()
    return worker


def is_local(worker: optimd.Worker) -> bool:
    return worker._session.transport.is_local


def gradient(value: float = 2.0) -> dict[str, Any]:
    return {"w": np.full(ELEMENTS, value, np.float32)}


def offer_of(worker: optimd.Worker) -> pb.LocalCalls:
    keeper = worker._membership._keeper
    assert keeper is not None
    return keeper.local_calls


def step_request(joiner: optimd.Worker, **fields: Any) -> bytes:
    data = np.full(ELEMENTS, 2.0, np.float32).view(np.uint8)
    checksum = fields.pop("crc32c", crc32c(data))
    header = pb.PushHeader(
        **{
            "job": "j",
            "worker": "w0",
            "epoch": joiner._membership.epoch,
            "seq": joiner._membership.next_seq,
            "base_version": joiner._base,
            "weight": 1.0,
            "payload_bytes": data.nbytes,
            "layout_digest": joiner._session.layout.digest,
            **fields,
        }
    )
    return with_data(pb.StepRequest(header=header, crc32c=checksum), data)


def raw(worker: optimd.Worker, token: bytes | None = None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5.0)
    offer = offer_of(worker)
    connection.connect(f"\0{offer.socket}")
    connection.sendall(offer.token if token is None else token)
    return connection


def framed(method: str, message: bytes) -> bytes:
    return b"".join(frames.request(method, message))
