"""Groups by name and number of dimensions, as a client in any language asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimdpb.codec import job_spec_to_proto
from optimdpb.specs import SGDW, JobSpec, Layout, Sync, Tensor
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.calls import RawClient, push_header, push_messages, reason_of, refusal, upload_messages
from tests.support.servers import ThreadServer

SHAPES = {"conv.kernel": (2, 2, 2), "dense.weight": (2, 3), "dense.bias": (3,), "scale": ()}
LAYOUT = Layout((*(Tensor(name, shape) for name, shape in SHAPES.items()), Tensor("norm.mean", (2,), "buffer")))
DECAYED = SGDW(0.1, momentum=0.0, weight_decay=0.5)
# With gradients of zero: w -= lr decay w.
KEPT, SHRUNK = 1.0, 0.95
NO_DECAY = {"weight_decay": 0.0}


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(threads=1)) as running:
        yield running


def request(job: str, *groups: dict[str, Any]) -> pb.CreateJobRequest:
    spec = job_spec_to_proto(JobSpec(LAYOUT, DECAYED, Sync(1)))
    for group in groups:
        spec.groups.add(**group)
    return pb.CreateJobRequest(job=job, spec=spec, worker="w0")


def make(client: RawClient, asked: pb.CreateJobRequest) -> None:
    """Create the job with parameters of one."""
    created = client.call("CreateJob", asked)
    ones = np.ones(LAYOUT.elements, np.float32)
    client.call("UploadParameters", upload_messages(asked.job, created.upload_token, LAYOUT, ones))


def after_one_step(client: RawClient, job: str) -> dict[str, float]:
    """The first element of each tensor."""
    epoch = client.join(job, "w0").epoch
    version, _ = client.pull(job)
    header = push_header(job, "w0", epoch, 1, version, LAYOUT)
    answer = client.call("Push", push_messages(header, np.zeros(LAYOUT.elements, np.float32)))
    assert answer.outcome.status == pb.OUTCOME_STATUS_APPLIED
    _, flat = client.pull(job)
    return {name: float(flat[at]) for name, at in zip(LAYOUT.names, LAYOUT.offsets, strict=False)}


@pytest.mark.parametrize(
    ("name", "groups", "kept"),
    [
        ("none", [], set()),
        ("matrices alone decay", [{"pattern": "*", "ndim_max": 1}], {"dense.bias", "scale"}),
        ("scalars", [{"pattern": "*", "ndim_max": 0}], {"scale"}),
        ("no kernels of convolutions", [{"pattern": "*", "ndim_min": 3}], {"conv.kernel"}),
        ("matrices", [{"pattern": "*", "ndim_min": 2, "ndim_max": 2}], {"dense.weight"}),
        ("name and shape", [{"pattern": "dense.*", "ndim_max": 1}], {"dense.bias"}),
        ("either", [{"pattern": "conv.*"}, {"pattern": "*", "ndim_max": 0}], {"conv.kernel", "scale"}),
    ],
)
def test_a_tensor_gets_what_its_group_says(
    client: RawClient, name: str, groups: list[dict[str, Any]], kept: set[str]
) -> None:
    asked = request(f"job-{name.replace(' ', '-')}", *({**group, "hyper_parameters": NO_DECAY} for group in groups))
    make(client, asked)
    got = after_one_step(client, asked.job)
    assert got.pop("norm.mean") == 0.0, "a buffer is the mean of what was pushed"
    assert got == pytest.approx({name: KEPT if name in kept else SHRUNK for name in SHAPES})


SAME = [
    [{"pattern": "*", "ndim_max": 1, "hyper_parameters": NO_DECAY}],
    [{"pattern": name, "hyper_parameters": NO_DECAY} for name in ("dense.bias", "scale")],
    [{"pattern": "[!c]*", "ndim_max": 1, "hyper_parameters": NO_DECAY}],
    [{"pattern": "*", "ndim_min": 2}, {"pattern": "*", "hyper_parameters": NO_DECAY, "lr_multiplier": 1.0}],
]


@pytest.mark.parametrize("first", SAME)
def test_however_groups_choose_the_same_tensors_it_is_the_same_job(
    client: RawClient, first: list[dict[str, Any]]
) -> None:
    job = f"same-{SAME.index(first)}"
    make(client, request(job, *first))
    for again in SAME:
        answer = client.call("CreateJob", request(job, *again))
        assert answer.disposition == pb.CREATE_DISPOSITION_READY
    assert client.call("GetJob", pb.GetJobRequest(job=job)).spec.groups[0].pattern == first[0]["pattern"]


def test_python_s_own_groups_are_the_same_job(server: ThreadServer) -> None:
    parameters = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    chosen = [
        [optimd.Group("*", ndim_max=1, weight_decay=0.0)],
        optimd.groups(parameters, lambda _, array: array.ndim < 2, weight_decay=0.0),
    ]
    for groups in chosen:
        with optimd.connect(server.address, job="python", worker="w0") as worker:
            worker.ensure_job(parameters, optimd.SGDW(0.1), optimd.Sync(1), groups=groups)


@pytest.mark.parametrize(
    ("groups", "expected", "got"),
    [
        (
            [],
            "for tensor 'dense.bias' lr_multiplier=1.0, weight_decay=0.0",
            "for tensor 'dense.bias' lr_multiplier=1.0",
        ),
        (
            [{"pattern": "scale", "frozen": True}, SAME[0][0]],
            "for tensor 'scale' lr_multiplier=1.0, weight_decay=0.0",
            "for tensor 'scale' frozen",
        ),
    ],
)
def test_the_first_tensor_that_would_get_something_else_is_named(
    client: RawClient, groups: list[dict[str, Any]], expected: str, got: str
) -> None:
    job = f"named-{len(groups)}"
    make(client, request(job, *SAME[0]))
    reason, metadata = refusal(lambda: client.call("CreateJob", request(job, *groups)))
    assert reason == "JOB_MISMATCH"
    assert metadata == {"field": "groups", "expected": expected, "got": got}


def test_a_group_that_chooses_nothing_says_what_there_is(client: RawClient) -> None:
    asked = request("nothing", {"pattern": "dense.*", "ndim_min": 3})
    with pytest.raises(grpc.RpcError, match="with 3 to 32 dimensions; those that match have 1, 2") as refused:
        client.call("CreateJob", asked)
    assert reason_of(refused.value) == ("INVALID_SPEC", {"field": "groups[0].ndim_min"})
