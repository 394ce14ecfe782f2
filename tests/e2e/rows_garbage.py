"""Bytes that are no request, and methods that are not served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optimdpb.codec import job_spec_to_proto
from optimdpb.frames import varint
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import WORKER, Row, Scene

NOT_SERVED = {
    "Stage": pb.StageRequest,
    "Commit": pb.CommitRequest,
    "Prepare": pb.PrepareRequest,
    "Apply": pb.ApplyRequest,
    "Abort": pb.AbortRequest,
}
STREAMING = ("Push", "Stage", "UploadParameters")


def garbage(method: str, data: bytes) -> Callable[[Scene], Any]:
    """Bytes that are no message of the method."""
    return lambda scene: scene.call(method, iter([data]) if method in STREAMING else data)


def truncated_create(scene: Scene) -> Any:
    spec = job_spec_to_proto(scene.spec)
    whole = pb.CreateJobRequest(job=f"{scene.job}-new", spec=spec, worker=WORKER).SerializeToString()
    return scene.call("CreateJob", whole[:-3])


def nested_create(scene: Scene) -> Any:
    """CreateJob with 200 warm-ups in each other: deeper than protobuf itself reads or writes."""
    data = b""
    path = [pb.Warmup.DESCRIPTOR.fields_by_name["schedule"], pb.Schedule.DESCRIPTOR.fields_by_name["warmup"]] * 200
    outside = ((pb.SGDM, "lr"), (pb.Optimizer, "sgdm"), (pb.JobSpec, "optimizer"), (pb.CreateJobRequest, "spec"))
    for field in [*path, *(message.DESCRIPTOR.fields_by_name[name] for message, name in outside)]:
        data = bytes([field.number << 3 | 2]) + varint(len(data)) + data
    return scene.call("CreateJob", data)


ROWS = [
    *[
        Row(
            f"not served: {name}",
            lambda scene, name=name, request=request: scene.call(
                name, iter([request()]) if name in STREAMING else request()
            ),
            "NOT_SERVED",
            {"feature": f"method {name}"},
        )
        for name, request in NOT_SERVED.items()
    ],
    *[
        Row(
            f"garbage to {rpc.name}",
            garbage(rpc.name, b"\xff\x00\xff\x01garbage"),
            "NOT_SERVED" if rpc.name in NOT_SERVED else "MALFORMED_REQUEST",
        )
        for service in pb.DESCRIPTOR.services_by_name.values()
        for rpc in service.methods
    ],
    Row("a specification with warm-up 200 deep", nested_create, "MALFORMED_REQUEST"),
    Row("truncated CreateJob", truncated_create, "MALFORMED_REQUEST"),
    Row("text that is not UTF-8", garbage("GetJob", b"\x0a\x02\xff\xfe"), "MALFORMED_REQUEST"),
]
