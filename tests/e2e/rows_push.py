"""Bad requests to WorkerService: membership, push headers, payloads, steps, pulls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from optimdpb.checksum import crc32c
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import CHUNK_BYTES, LAYOUT, WORKER, Row, Scene
from tests.support.calls import push_messages, step_message, upload_messages

TOTAL = LAYOUT.size_bytes
HALF = TOTAL // 2
INT64_MAX = 2**63 - 1
Send = Callable[[Scene], Any]


def filled(value: float) -> Send:
    """A push whose last element is `value`."""
    return lambda scene: scene.push(np.append(scene.gradient[:-1], np.float32(value)))


def headed(**fields: Any) -> Send:
    """A push with fields of the header changed."""
    return lambda scene: scene.push(**fields)


def chunked(*chunks: tuple[int, int], **fields: Any) -> Send:
    """A push of these (start, stop) of a good payload; fields override in every chunk."""
    return lambda scene: scene.push_chunks(*[scene.chunk(start, stop, **fields) for start, stop in chunks])


def cut_at(payload_bytes: int) -> Send:
    """A push cancelled when the server has so much of it."""
    return lambda scene: scene.cut_push(payload_bytes)


def base_moved(by: int) -> Send:
    """A push whose base step is off by this many."""
    return lambda scene: scene.push(
        base_version=pb.Version(lineage=scene.version().lineage, step=scene.version().step + by)
    )


def base_at(step: int) -> Send:
    """A push whose base step is this one."""
    return lambda scene: scene.push(base_version=pb.Version(lineage=scene.version().lineage, step=step))


def based_on(lineage: str) -> Send:
    """A push on parameters of another history."""
    return lambda scene: scene.push(base_version=pb.Version(lineage=lineage))


def epoch_moved(by: int) -> Send:
    """A push under an epoch that is off by this many."""
    return lambda scene: scene.push(epoch=scene.epoch + by)


def seq_moved(by: int) -> Send:
    """A push whose seq is off by this many."""
    return lambda scene: scene.push(seq=scene.last_seq() + 1 + by)


def member_call(method: str, request: Callable[..., Any], **fields: Any) -> Send:
    """A call that names the scene's job, worker and epoch; fields override."""
    return lambda scene: scene.call(
        method, request(**{"job": scene.job, "worker": WORKER, "epoch": scene.epoch, **fields})
    )


def pulled(**fields: Any) -> Send:
    """A pull of the scene's job; fields override."""
    return lambda scene: scene.call("Pull", pb.PullRequest(**{"job": scene.job, **fields}))


def joined(**fields: Any) -> Send:
    """Join; fields override."""
    return lambda scene: scene.call("Join", pb.JoinRequest(**{"job": scene.job, "worker": "w9", **fields}))


def stepped(data: bytes | None = None, header: dict[str, Any] | None = None, **fields: Any) -> Send:
    """A unary step with other data, header fields or fields."""

    def send(scene: Scene) -> Any:
        request = step_message(scene.header(**(header or {})), scene.gradient)
        if data is not None:
            request.data, request.crc32c = data, crc32c(data)
        for field, value in fields.items():
            setattr(request, field, value)
        return scene.call("Step", request)

    return send


def header_twice(scene: Scene) -> Any:
    """The second header names another seq."""
    first, *rest = push_messages(scene.header(), scene.gradient, CHUNK_BYTES)
    rest[-1].header.CopyFrom(scene.header(seq=99))
    return scene.call("Push", iter([first, *rest]))


def truncated_push(scene: Scene) -> Any:
    """The last message ends in the middle of its data."""
    *first, last = push_messages(scene.header(), scene.gradient, CHUNK_BYTES)
    return scene.call("Push", iter([*first, last.SerializeToString()[:-3]]))


def forgotten(scene: Scene) -> None:
    """Enough steps for seq 1 to be forgotten."""
    for _ in range(20):
        scene.good_step()


def refused(name: str, send: Send, reason: str, metadata: dict[str, str] | None = None, **fields: Any) -> Row:
    return Row(name, send, reason, metadata or {}, **fields)


def consumed(name: str, send: Send, status: str, reason: str, **fields: Any) -> Row:
    return Row(name, send, outcome=(status, reason), consumed=True, **fields)


leave = member_call("Leave", pb.LeaveRequest)
heartbeat = member_call("Heartbeat", pb.HeartbeatRequest)


def join_again(scene: Scene) -> None:
    """The scene keeps the epoch that this fences."""
    scene.client.join(scene.job, WORKER)


UNKNOWN_JOB = [
    refused(f"unknown job: {name}", send, "UNKNOWN_JOB", {"job": "nowhere"})
    for name, send in {
        "GetJob": lambda scene: scene.call("GetJob", pb.GetJobRequest(job="nowhere")),
        "UploadParameters": lambda scene: scene.call(
            "UploadParameters", upload_messages("nowhere", 1, LAYOUT, scene.start)
        ),
        "Join": joined(job="nowhere"),
        "Leave": member_call("Leave", pb.LeaveRequest, job="nowhere"),
        "Heartbeat": member_call("Heartbeat", pb.HeartbeatRequest, job="nowhere"),
        "Push": headed(job="nowhere"),
        "Pull": pulled(job="nowhere"),
        "Step": stepped(header={"job": "nowhere"}),
        "AwaitOutcome": member_call("AwaitOutcome", pb.AwaitOutcomeRequest, job="nowhere", seq=1),
    }.items()
]

MEMBERSHIP = [
    refused("push of a worker that never joined", headed(worker="w9"), "NOT_JOINED", {"worker": "w9"}),
    refused("push after leave", headed(), "NOT_JOINED", {"worker": WORKER}, arrange=leave),
    refused("push under an old epoch", headed(), "EPOCH_SUPERSEDED", {"worker": WORKER}, arrange=join_again),
    refused("push under an epoch yet to come", epoch_moved(1000), "NOT_JOINED"),
    *[
        refused(f"push under epoch {epoch}, which never was", headed(epoch=epoch), "NOT_JOINED", {"epoch": str(epoch)})
        for epoch in (0, -1, 99, INT64_MAX, -(2**63))
    ],
    refused("push under the epoch of another", epoch_moved(-1), "NOT_JOINED", {"worker": WORKER}),
    refused("push after the lease", headed(), "LEASE_EXPIRED", arrange=Scene.wait_expired, server="short lease"),
    refused("heartbeat after the lease", heartbeat, "LEASE_EXPIRED", arrange=Scene.wait_expired, server="short lease"),
    refused("heartbeat after leave", heartbeat, "NOT_JOINED", arrange=leave),
    refused("heartbeat of an old epoch", heartbeat, "EPOCH_SUPERSEDED", arrange=join_again),
    refused("leave of an epoch that never was", member_call("Leave", pb.LeaveRequest, epoch=99), "NOT_JOINED"),
    refused(
        "heartbeat of an epoch that never was", member_call("Heartbeat", pb.HeartbeatRequest, epoch=99), "NOT_JOINED"
    ),
    refused("leave of an old epoch", leave, "EPOCH_SUPERSEDED", arrange=join_again),
    refused("join with a bad name", joined(worker="a b"), "INVALID_NAME", {"field": "worker"}),
    refused("join with another layout", joined(layout_digest=b"x" * 32), "LAYOUT_MISMATCH"),
    refused("join of a job with another rule", joined(spec_digest=b"x" * 32), "JOB_MISMATCH", {"field": "spec_digest"}),
    refused("join above workers_max", joined(), "LIMIT_EXCEEDED", {"limit": "workers_max"}, server="full"),
    refused(
        "await of an epoch never given",
        member_call("AwaitOutcome", pb.AwaitOutcomeRequest, epoch=999, seq=1),
        "NOT_JOINED",
        {"epoch": "999"},
    ),
    refused(
        "await of seq 0", member_call("AwaitOutcome", pb.AwaitOutcomeRequest, seq=0), "INVALID_PUSH", {"field": "seq"}
    ),
]

HEADERS = [
    refused("header missing", lambda scene: scene.call("Push", iter([scene.chunk(0, HALF)])), "MALFORMED_REQUEST"),
    refused("empty stream", lambda scene: scene.call("Push", iter([])), "MALFORMED_REQUEST", {"field": "header"}),
    refused("header in a later message", header_twice, "MALFORMED_REQUEST", {"field": "header"}),
    refused("seq skips one", seq_moved(1), "SEQ_GAP", {"expected_seq": "1", "seq": "2"}),
    refused("seq at the end of int64", headed(seq=INT64_MAX), "SEQ_GAP"),
    refused("seq 0", headed(seq=0), "INVALID_PUSH", {"field": "seq"}),
    refused("seq negative", headed(seq=-1), "INVALID_PUSH", {"field": "seq"}),
    refused("seq forgotten", headed(seq=1), "SEQ_FORGOTTEN", {"seq": "1", "oldest_seq": "17"}, arrange=forgotten),
    *[
        refused(f"weight {weight}", headed(weight=weight), "INVALID_PUSH", {"field": "weight"})
        for weight in (0.0, -1.0, math.nan, math.inf, 2e18)
    ],
    refused("layout digest of another layout", headed(layout_digest=b"x" * 32), "LAYOUT_MISMATCH"),
    refused("layout digest missing", headed(layout_digest=b""), "LAYOUT_MISMATCH"),
    *[
        refused(f"encoding {encoding}", headed(encoding=encoding), "UNSUPPORTED_ENCODING", {"field": "encoding"})
        for encoding in (4, 77)
    ],
    *[
        refused(f"payload_bytes {size}", headed(payload_bytes=size), "PAYLOAD_SIZE_MISMATCH", {"expected": str(TOTAL)})
        for size in (0, TOTAL - 4, TOTAL + 4, 2**40, -1)
    ],
    refused(
        "no base version",
        lambda scene: scene.call("Push", iter([pb.PushRequest(header=without_base(scene))])),
        "MALFORMED_REQUEST",
        {"field": "base_version"},
    ),
    *[
        refused(f"base step {step}", base_at(step), "INVALID_PUSH", {"field": "base_version.step"})
        for step in (-1, -(2**63), 2**53 + 1)
    ],
    consumed("base in the future", base_moved(1), "REJECTED", "BASE_IN_FUTURE"),
    consumed("base late", base_moved(-1), "DISCARDED", "LATE", arrange=Scene.good_step),
    consumed("base of another lineage", based_on("f" * 32), "DISCARDED", "LINEAGE_CHANGED"),
    refused("base without lineage", based_on(""), "MALFORMED_REQUEST", {"field": "base_version.lineage"}),
    consumed("base of a lineage of a megabyte", based_on("x" * 1_000_000), "DISCARDED", "LINEAGE_CHANGED"),
]


def without_base(scene: Scene) -> pb.PushHeader:
    header = scene.header()
    header.ClearField("base_version")
    return header


PAYLOADS = [
    consumed("NaN", filled(math.nan), "REJECTED", "NON_FINITE"),
    consumed("+infinity", filled(math.inf), "REJECTED", "NON_FINITE"),
    consumed("-infinity", filled(-math.inf), "REJECTED", "NON_FINITE"),
    consumed("1e30", filled(1e30), "REJECTED", "TOO_LARGE"),
    consumed("-1e30", filled(-1e30), "REJECTED", "TOO_LARGE"),
    Row("stream cut before any data", cut_at(0)),
    Row("stream cut in the middle", cut_at(HALF)),
    refused("chunk past the end", chunked((0, HALF), (HALF, TOTAL), (TOTAL - 4, TOTAL)), "CHUNK_OUT_OF_ORDER"),
    refused(
        "bytes past the end",
        lambda scene: scene.push_chunks(
            scene.chunk(0, HALF), scene.chunk(HALF, TOTAL), scene.chunk(0, 4, offset_bytes=TOTAL)
        ),
        "PAYLOAD_SIZE_MISMATCH",
        {"expected": str(TOTAL), "got": str(TOTAL + 4)},
    ),
    refused("chunks swapped", chunked((HALF, TOTAL), (0, HALF)), "CHUNK_OUT_OF_ORDER", {"expected": "0"}),
    refused("chunk repeated", chunked((0, HALF), (0, HALF)), "CHUNK_OUT_OF_ORDER", {"expected": str(HALF)}),
    refused("offset negative", chunked((0, HALF), offset_bytes=-4), "CHUNK_OUT_OF_ORDER", {"got": "-4"}),
    refused("offset far away", chunked((0, HALF), offset_bytes=2**62), "CHUNK_OUT_OF_ORDER"),
    refused("half an element", chunked((0, 1022)), "CHUNK_OUT_OF_ORDER", {"got": "1022"}),
    refused(
        "chunk too large", chunked((0, 4), data=b"\0" * (TOTAL + 4)), "CHUNK_OUT_OF_ORDER", {"got": str(TOTAL + 4)}
    ),
    refused("checksum wrong", chunked((0, HALF), crc32c=1), "CHECKSUM_MISMATCH", {"got": "0x00000001"}),
    *[
        refused(f"checksum {crc}", chunked((0, HALF), crc32c=crc), "MALFORMED_REQUEST", {"field": "crc32c"})
        for crc in (None, 0)
    ],
    refused("too few bytes", chunked((0, HALF)), "PAYLOAD_SIZE_MISMATCH", {"expected": str(TOTAL), "got": str(HALF)}),
    refused("no bytes", chunked(), "PAYLOAD_SIZE_MISMATCH", {"got": "0"}),
    refused("truncated message", truncated_push, "MALFORMED_REQUEST"),
]

STEPS = [
    consumed("step: NaN", stepped(np.full(LAYOUT.elements, np.nan, "<f4").tobytes()), "REJECTED", "NON_FINITE"),
    refused("step: no header", lambda scene: scene.call("Step", pb.StepRequest()), "MALFORMED_REQUEST"),
    refused("step: seq skips one", stepped(header={"seq": 5}), "SEQ_GAP"),
    refused("step: too few bytes", stepped(b"\0" * HALF), "PAYLOAD_SIZE_MISMATCH", {"got": str(HALF)}),
    refused("step: no data", stepped(b""), "PAYLOAD_SIZE_MISMATCH", {"got": "0"}),
    refused("step: checksum wrong", stepped(crc32c=1), "CHECKSUM_MISMATCH"),
    refused("step: checksum 0", stepped(crc32c=0), "MALFORMED_REQUEST", {"field": "crc32c"}),
    refused(
        "step: model above step_bytes_max",
        stepped(),
        "LIMIT_EXCEEDED",
        {"limit": "step_bytes_max", "limit_value": str(TOTAL - 4), "value": str(TOTAL)},
        server="full",
    ),
]

PULLS = [
    refused("pull as int8", pulled(encoding=pb.ENCODING_INT8_BLOCK), "UNSUPPORTED_ENCODING", {"field": "encoding"}),
    refused("pull in an unknown encoding", pulled(encoding=9), "UNSUPPORTED_ENCODING", {"field": "encoding"}),
    refused("pull of an unknown view", pulled(view=9), "UNSUPPORTED_ENCODING", {"field": "view"}),
    refused("pull of a worker that never joined", pulled(worker="w9", epoch=1), "NOT_JOINED"),
    refused(
        "pull under an old epoch",
        lambda s: pulled(worker=WORKER, epoch=s.epoch)(s),
        "EPOCH_SUPERSEDED",
        arrange=join_again,
    ),
]

OPEN = member_call("OpenSharedMemory", pb.OpenSharedMemoryRequest)
SHARED = [
    refused(
        "push from a shared buffer that was never opened",
        headed(shared_buffer=1),
        "SHARED_MEMORY_GONE",
        {"shared_buffer": "1", "worker": WORKER},
    ),
    refused(
        "step from a shared buffer that was never opened", stepped(header={"shared_buffer": 2}), "SHARED_MEMORY_GONE"
    ),
    refused("bfloat16 in a shared buffer", headed(shared_buffer=1, encoding=pb.ENCODING_BF16), "UNSUPPORTED_ENCODING"),
    refused("shared memory for a model that travels in the call", OPEN, "SHARED_MEMORY_UNAVAILABLE"),
    refused(
        "shared memory under an old epoch",
        lambda s: member_call("OpenSharedMemory", pb.OpenSharedMemoryRequest, epoch=s.epoch)(s),
        "EPOCH_SUPERSEDED",
        arrange=join_again,
    ),
]

ROWS = [*UNKNOWN_JOB, *MEMBERSHIP, *HEADERS, *PAYLOADS, *STEPS, *PULLS, *SHARED]
