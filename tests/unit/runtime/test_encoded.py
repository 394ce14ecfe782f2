"""Versions that are still being sent: bounded, the oldest cut off."""

from __future__ import annotations

import numpy as np
import pytest
from optimd_server.core.events import Version
from optimd_server.optimizers import plan_of
from optimd_server.runtime.encoded import ParameterMessages
from optimd_server.runtime.shards import ShardGroup
from optimdpb.errors import Refused
from optimdpb.frames import framed
from optimdpb.specs import SGD
from optimdpb.v1 import optimd_pb2 as pb

from tests.support.trainer import spec_of

ELEMENTS = 1000


@pytest.fixture
def messages() -> ParameterMessages:
    spec = spec_of(SGD(0.1), ELEMENTS)
    group = ShardGroup(spec, plan_of(spec), 2, 1, 400)
    for shard in group.shards:
        shard.parameters[:] = np.arange(shard.element_start, shard.element_stop)
    return ParameterMessages(group, versions_max=2)


def test_the_messages_hold_the_parameters(messages: ParameterMessages) -> None:
    for bfloat16 in (False, True):
        encoded = messages.make(Version("a", 1), bfloat16)
        parts = [framed(message, pb.PullResponse) for message in encoded.read()]
        assert sum(part.data.size for part in parts) == encoded.payload_bytes
        assert [part.message.offset_bytes for part in parts] == sorted(part.message.offset_bytes for part in parts)
        data = np.concatenate([part.data for part in parts])
        flat = (
            data.view(np.float32) if not bfloat16 else (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        )
        assert np.abs(flat - np.arange(ELEMENTS)).max() <= (2.0 if bfloat16 else 0.0)


def test_a_version_is_made_once(messages: ParameterMessages) -> None:
    version = Version("a", 1)
    assert messages.known(version, bfloat16=False) is None
    made = messages.make(version, False)
    assert messages.known(version, bfloat16=False) is made
    assert messages.known(version, bfloat16=True) is None
    assert messages.known(Version("b", 1), bfloat16=False) is None


def test_who_reads_the_oldest_of_too_many_is_cut_off(messages: ParameterMessages) -> None:
    readers = []
    for step in range(4):
        reader = messages.make(Version("a", step), False).read()
        next(reader)
        readers.append(reader)
    for cut in readers[:2]:
        with pytest.raises(Refused) as refused:
            list(cut)
        assert refused.value.reason == "PULL_TOO_SLOW"
    assert all(len(list(reader)) > 1 for reader in readers[2:])


def test_who_has_read_is_not_in_the_way(messages: ParameterMessages) -> None:
    slow = messages.make(Version("a", 0), False).read()
    next(slow)
    for step in range(1, 10):
        assert len(list(messages.make(Version("a", step), False).read())) > 1
    assert len(list(slow)) > 1
