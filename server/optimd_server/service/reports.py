"""What there is to say about a job, cut to what one message may hold."""

from __future__ import annotations

from google.protobuf import duration_pb2
from optimdpb.codec import schedule_to_proto
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.members import Member
from optimd_server.core.state import HistoryEntry
from optimd_server.runtime import JobHost, Runtime
from optimd_server.service.messages import header, round_to_proto, state_to_proto

# Every client takes 4 MiB. The specification, the schedules in force and what is short leave at least 900 KiB.
REPORT_BYTES_MAX = (4 << 20) - (64 << 10)
# Tag and length of an entry of a list.
ENTRY_BYTES = 6


def job_report(runtime: Runtime, host: JobHost) -> pb.GetJobResponse:
    """All of it, or the first workers and the last changes that fit, with the count of the others."""
    state, now_s = host.machine.state, host.now_s()
    counters = state.counters
    report = pb.GetJobResponse(
        header=header(runtime, host),
        state=state_to_proto(host),
        spec=host.spec_message,
        last_round=round_to_proto(state.last_round) if state.last_round else None,
        counters=pb.JobCounters(
            applied=counters.applied,
            discarded=counters.discarded,
            rejected=counters.rejected,
            duplicates=counters.duplicates,
            rounds_void=counters.rounds_void,
        ),
        waiting_for="" if host.failure else host.machine.waiting_for(now_s),
        failure=host.failure,
        layout_digest=host.spec.layout.digest,
        revision=state.clock.revision,
        spec_digest=host.spec_digest,
        steps_max=state.clock.steps_max,
    )
    for name, schedule in state.clock.schedules().items():
        report.schedules[name].CopyFrom(schedule_to_proto(schedule))
    room_bytes = REPORT_BYTES_MAX - report.ByteSize()
    _put_history(report, state.history, room_bytes // 2)
    _put_workers(report, host, now_s, REPORT_BYTES_MAX - report.ByteSize())
    return report


def _put_history(report: pb.GetJobResponse, history: list[HistoryEntry], room_bytes: int) -> None:
    """The last entries that fit."""
    entries = []
    for entry in reversed(history):
        message = pb.HistoryEntry(**vars(entry))
        room_bytes -= message.ByteSize() + ENTRY_BYTES
        if room_bytes < 0:
            break
        entries.append(message)
    report.history.extend(reversed(entries))
    report.history_left_out = len(history) - len(entries)


def _put_workers(report: pb.GetJobResponse, host: JobHost, now_s: float, room_bytes: int) -> None:
    """The first workers that fit."""
    members = host.machine.state.members
    for rank, member in enumerate(members):
        message = _worker(host, rank, member, now_s)
        room_bytes -= message.ByteSize() + ENTRY_BYTES
        if room_bytes < 0:
            break
        report.workers.append(message)
    report.workers_left_out = len(members) - len(report.workers)


def _worker(host: JobHost, rank: int, member: Member, now_s: float) -> pb.WorkerStatus:
    account = host.machine.state.ledger.find(member.worker, member.epoch)
    transport, detail = host.transports.get((member.worker, member.epoch), (pb.TRANSPORT_UNSPECIFIED, ""))
    return pb.WorkerStatus(
        worker=member.worker,
        epoch=member.epoch,
        rank=rank,
        last_seq=account.last_seq if account else 0,
        member=host.machine.rounds.counts(member.worker, member.epoch),
        lease_left=_duration(member.lease_until_s - now_s),
        rejections=member.rejections,
        transport=pb.Transport.Name(transport) if transport in pb.Transport.values() else None,
        transport_detail=detail,
        last_push_ago=_duration(now_s - member.pushed_s),
        idle=None if member.idle_s is None else _duration(member.idle_s),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(max(0, int(seconds * 1000)))
    return duration
