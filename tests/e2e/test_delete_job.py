"""Deleting a job: in every state, with everything that may be on its way."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import optimd
import pytest
from optimd_server.runtime import ServerConfig
from optimd_server.storage.directory import folder_name
from optimdpb.codec import job_spec_to_proto
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

from tests.e2e.scene import LAYOUT, SPEC, WORKER, Scene, eventually, until_bytes
from tests.support.calls import RawClient, push_messages, reason_of, upload_messages
from tests.support.program import said
from tests.support.servers import ThreadServer

START = {"w": np.zeros(4, np.float32)}
ONES = {"w": np.ones(4, np.float32)}
SMALL = {"threads": 1, "lease_s": 30.0}
LARGE = {"threads": 2, "lease_s": 30.0, "shards": 2, "inline_bytes_max": 0, "one_thread_bytes_max": 0}


@pytest.fixture(params=[SMALL, LARGE], ids=["on the loop", "on threads"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ThreadServer]:
    folders = {"data_dir": tmp_path / "data", "event_log_dir": tmp_path / "log"}
    with ThreadServer(ServerConfig(**request.param, **folders)) as running:
        yield running


def delete(client: RawClient, job: str = "j", **fields: Any) -> pb.DeleteJobResponse:
    answer: pb.DeleteJobResponse = client.call("DeleteJob", pb.DeleteJobRequest(job=job, **fields))
    return answer


def reason(call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return reason_of(caught.value)[0]


def assert_gone(server: ThreadServer, client: RawClient, host: Any) -> None:
    """Nothing of it takes room, its calls say so, and its name can be used again."""
    assert reason(lambda: client.call("GetJob", pb.GetJobRequest(job="j"))) == "JOB_DELETED"
    assert reason(lambda: client.join("j", "w0")) == "JOB_DELETED"
    assert not client.call("ListJobs", pb.ListJobsRequest()).jobs
    eventually(lambda: server.on_loop(lambda: host.shards.shards == []), "its parameters and slots to be freed")
    assert server.on_loop(lambda: (server.runtime._budget.jobs, host.shards.staged, host.sharing.vectors)) == (
        [],
        {},
        0,
    )
    assert host.sharing.parameters is None
    assert host.event_log is None
    scene = Scene(server, client, "j")
    assert scene.epoch > host.machine.state.members.last_epoch
    scene.good_step()


def test_a_job_that_trains(server: ThreadServer, client: RawClient) -> None:
    scene = Scene(server, client, "j")
    scene.good_step()
    host, lineage = server.host("j"), scene.version().lineage
    answer = delete(client, requester="me")
    assert (answer.header.step, answer.header.lineage, answer.snapshots_kept) == (1, lineage, "")
    with pytest.raises(grpc.RpcError, match="job 'j' was deleted at step 1 by me"):
        client.call("Heartbeat", pb.HeartbeatRequest(job="j", worker=WORKER, epoch=scene.epoch))
    assert_gone(server, client, host)


def test_pushes_that_wait(server: ThreadServer) -> None:
    with (
        optimd.connect(server.address, job="j", worker="w0") as worker,
        optimd.connect(server.address, job="j", worker="w1") as other,
    ):
        worker.ensure_job(START, optimd.SGD(1.0), optimd.Sync(2))
        other.ensure_job(START, optimd.SGD(1.0), optimd.Sync(2))
        worker.pull()
        errors: list[Refused] = []

        def push() -> None:
            try:
                worker.step(ONES)
            except Refused as error:
                errors.append(error)

        waiting = threading.Thread(target=push)
        waiting.start()
        host = server.host("j")
        eventually(lambda: bool(server.on_loop(host.machine.rounds.unanswered)), "a push that waits")
        other.delete_job()
        waiting.join(20)
        assert [error.reason for error in errors] == ["JOB_DELETED"]
        for call in (lambda: worker.step(ONES), other.pull, worker.status):
            with pytest.raises(Refused, match="was deleted at step 0 by w1"):
                call()


def test_an_upload_on_its_way(server: ThreadServer, client: RawClient) -> None:
    token, over = client.create("j", SPEC, WORKER).upload_token, threading.Event()
    start = np.ones(LAYOUT.elements, np.float32)
    half = until_bytes(upload_messages("j", token, LAYOUT, start, 1024), LAYOUT.size_bytes // 2, over)
    call = client.start("UploadParameters", half)
    waiting = client.start("CreateJob", pb.CreateJobRequest(job="j", spec=job_spec_to_proto(SPEC), worker="w1"))
    host = server.host("j")
    eventually(lambda: server.on_loop(lambda: bool(host.shards.flat_parameters()[0] == 1.0)), "the first chunk")
    eventually(lambda: server.on_loop(lambda: bool(host.ready._waiters)), "a caller that waits")
    delete(client)
    over.set()
    assert reason(call.result) == "JOB_DELETED"
    assert reason(waiting.result) == "JOB_DELETED"
    again = pb.CreateJobRequest(job="j", spec=job_spec_to_proto(SPEC), worker="w1", again=True)
    assert reason(lambda: client.call("CreateJob", again)) == "JOB_DELETED"
    assert_gone(server, client, host)


def test_a_push_half_sent(server: ThreadServer, client: RawClient) -> None:
    scene, over = Scene(server, client, "j"), threading.Event()
    call = client.start("Push", until_bytes(push_messages(scene.header(), scene.gradient, 1024), 2048, over))
    eventually(lambda: scene.staged_bytes() == 2048, "half a push")
    host = server.host("j")
    delete(client)
    over.set()
    assert reason(call.result) in ("JOB_DELETED", "PUSH_SUPERSEDED")  # after the latter a client asks
    assert_gone(server, client, host)


class Held:
    """A function of the server that stops on its first call until it is let go."""

    def __init__(self, owner: Any, name: str) -> None:
        self.real = getattr(owner, name)
        self.entered, self.go_on = threading.Event(), threading.Event()
        setattr(owner, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.entered.set()
        assert self.go_on.wait(30)
        return self.real(*arguments, **named)


@pytest.fixture
def threads(tmp_path: Path) -> Iterator[ThreadServer]:
    with ThreadServer(ServerConfig(**LARGE, data_dir=tmp_path / "data")) as running:
        yield running


@pytest.mark.parametrize("what", ["prepare", "apply"])
def test_memory_is_freed_once_the_update_on_its_way_is_through(threads: ThreadServer, what: str) -> None:
    with RawClient(threads.address) as client:
        spec = SPEC if what == "apply" else dataclasses.replace(SPEC, clip=optimd.ClipGlobalNorm(1.0))
        scene = Scene(threads, client, "j", spec)
        host = threads.host("j")
        held = Held(host.shards, what)
        call = client.start("Push", push_messages(scene.header(), scene.gradient))
        assert held.entered.wait(20)
        delete(client)
        assert reason(call.result) == "JOB_DELETED"
        assert threads.on_loop(lambda: len(host.shards.shards)) == 2
        held.go_on.set()
        assert_gone(threads, client, host)


def test_a_save_on_its_way_is_finished_first(threads: ThreadServer) -> None:
    with RawClient(threads.address) as client:
        Scene(threads, client, "j")
        host, store = threads.host("j"), threads.runtime._saver._store  # type: ignore[union-attr]
        held = Held(store, "save")
        saving = client.start("CreateSnapshot", pb.CreateSnapshotRequest(job="j"))
        assert held.entered.wait(20)
        later = client.start("CreateSnapshot", pb.CreateSnapshotRequest(job="j"))
        deleting = client.start("DeleteJob", pb.DeleteJobRequest(job="j"))
        held.go_on.set()
        assert saving.result(20).snapshot
        kept = Path(deleting.result(20).snapshots_kept)
        assert kept.is_dir()
        assert later.exception(20) is None or reason_of(later.exception(20))[0] == "JOB_DELETED"
        store.save = held.real
        assert_gone(threads, client, host)


def test_a_delete_whose_caller_gives_up_is_finished(threads: ThreadServer) -> None:
    with RawClient(threads.address) as client:
        Scene(threads, client, "j")
        held = Held(threads.runtime._saver._store, "remove")  # type: ignore[union-attr]
        deleting = client.start("DeleteJob", pb.DeleteJobRequest(job="j"))
        assert held.entered.wait(20)
        deleting.cancel()
        held.go_on.set()
        eventually(lambda: not threads.runtime.jobs, "the job to be gone")


def test_a_range_test_that_runs(server: ThreadServer, client: RawClient) -> None:
    scene = Scene(server, client, "j")
    client.call(
        "StartRangeTest", pb.StartRangeTestRequest(job="j", request_id="r", lr_start=1e-3, lr_end=0.1, steps=10)
    )
    scene.push(loss=1.0)
    host = server.host("j")
    assert server.on_loop(lambda: host.state_name) == "RANGE_TEST"
    delete(client)
    assert_gone(server, client, host)


def test_a_failed_job(server: ThreadServer, client: RawClient) -> None:
    Scene(server, client, "j")
    host = server.host("j")
    server.on_loop(lambda: host.fail(RuntimeError("a defect"), "planted", trusted=False))
    delete(client)
    assert_gone(server, client, host)


def test_twice_and_never(server: ThreadServer, client: RawClient) -> None:
    Scene(server, client, "j")
    assert reason(lambda: delete(client, "k")) == "UNKNOWN_JOB"
    assert reason(lambda: delete(client, expected_lineage="another")) == "REVISION_MISMATCH"
    assert reason(lambda: delete(client, requester="m" * 129)) == "INVALID_UPDATE"
    assert delete(client).header.lineage
    assert delete(client) == pb.DeleteJobResponse(header=pb.Header(incarnation=server.runtime.incarnation))


def test_other_jobs_notice_nothing(server: ThreadServer, client: RawClient) -> None:
    Scene(server, client, "j")
    other = Scene(server, client, "other")
    delete(client)
    other.good_step()


def test_while_the_server_ends(server: ThreadServer, client: RawClient) -> None:
    Scene(server, client, "j")
    server.on_loop(server.runtime.freeze)
    assert reason(lambda: delete(client)) == "SHUTTING_DOWN"
    server.stop()
    assert server.runtime.saved_all


def test_the_server_ends_while_it_deletes(tmp_path: Path) -> None:
    """What is deleted is not saved once more, and nothing of it is missing."""
    with ThreadServer(ServerConfig(**LARGE, data_dir=tmp_path)) as server, RawClient(server.address) as client:
        Scene(server, client, "j")
        held = Held(server.runtime._saver._store, "remove")  # type: ignore[union-attr]
        deleting = client.start("DeleteJob", pb.DeleteJobRequest(job="j"))
        assert held.entered.wait(20)
        ends = threading.Thread(target=server.stop)
        ends.start()
        eventually(lambda: bool(server.runtime.unsaved), "the server to save")
        held.go_on.set()
        deleting.result(20)
        ends.join(30)
        assert server.runtime.saved_all
    assert not (tmp_path / folder_name("j")).exists()


def test_a_disk_that_cannot_be_written_leaves_the_job(server: ThreadServer, client: RawClient) -> None:
    scene = Scene(server, client, "j")
    store = server.runtime._saver._store  # type: ignore[union-attr]

    def broken(*_: object, **__: object) -> Any:
        raise OSError("the disk is gone")

    store.remove = broken  # type: ignore[method-assign]
    assert reason(lambda: delete(client)) == "STORAGE_FAILED"
    scene.good_step()


def test_what_cannot_be_let_go_keeps_no_room(server: ThreadServer, client: RawClient) -> None:
    """For gradients: without memory behind it, it would fail whoever else joins."""
    Scene(server, client, "j")
    sharing = server.host("j").sharing

    def broken() -> None:
        raise OSError("a descriptor is gone")

    sharing.forget_all = broken  # type: ignore[method-assign]
    assert reason(lambda: delete(client)) == "INTERNAL"
    delete(client)
    assert server.runtime._budget.jobs == []
    Scene(server, client, "other").good_step()


class Disk:
    """Jobs over several servers on one data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / folder_name("j")

    def serve(self) -> ThreadServer:
        return ThreadServer(ServerConfig(**SMALL, data_dir=self.path))

    def kept_after_deleting(self, **fields: Any) -> str:
        """A job saved at step 1 and deleted at step 2."""
        with self.serve() as server, RawClient(server.address) as client:
            scene = Scene(server, client, "j")
            scene.good_step()
            client.call("CreateSnapshot", pb.CreateSnapshotRequest(job="j"))
            scene.good_step()
            return str(delete(client, **fields).snapshots_kept)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_kept_snapshots_do_not_come_back_by_themselves(disk: Disk) -> None:
    kept = Path(disk.kept_after_deleting())
    assert kept == disk.folder.with_name(f"{disk.folder.name}.deleted-00000001")
    assert kept.is_dir()
    with disk.serve() as server, RawClient(server.address) as client:
        assert reason(lambda: client.call("GetJob", pb.GetJobRequest(job="j"))) == "UNKNOWN_JOB"
        again = Scene(server, client, "j")
        again.good_step()
        client.call("CreateSnapshot", pb.CreateSnapshotRequest(job="j"))
        assert delete(client).snapshots_kept.endswith(".deleted-00000002")
    assert len(list(kept.glob("*-step-1"))) == 1, "a later job of the name does not touch them"


def test_they_come_back_when_the_folder_gets_its_name_again(disk: Disk) -> None:
    """Under another lineage: a step was made behind the snapshot."""
    kept = Path(disk.kept_after_deleting())
    kept.rename(disk.folder)
    lineages = []
    for _ in range(2):
        with disk.serve() as server, RawClient(server.address) as client:
            lineages.append(client.pull("j")[0].lineage)
            assert client.call("GetJob", pb.GetJobRequest(job="j")).history[-1].change == (
                "restored with loss" if len(lineages) == 1 else "restored"
            )
    assert lineages[0] == lineages[1]


def test_they_are_removed_when_asked_for(disk: Disk) -> None:
    assert disk.kept_after_deleting(with_snapshots=True) == ""
    assert not list(disk.path.glob(f"{disk.folder.name}*"))


def test_those_of_before_can_be_removed_later(disk: Disk) -> None:
    disk.kept_after_deleting()
    with disk.serve() as server, RawClient(server.address) as client:
        assert delete(client, with_snapshots=True).snapshots_kept == ""
        assert reason(lambda: delete(client)) == "UNKNOWN_JOB"
    assert not list(disk.path.glob(f"{disk.folder.name}*"))


def test_a_job_that_could_not_be_restored(disk: Disk) -> None:
    with disk.serve() as server, RawClient(server.address) as client:
        Scene(server, client, "j")
    manifest = next(disk.folder.glob("*/manifest.json"))
    manifest.write_text("{")
    with disk.serve() as server, RawClient(server.address) as client:
        name = server.on_loop(lambda: next(iter(server.runtime.unrestored)))
        assert Path(delete(client, name).snapshots_kept).is_dir()
        assert not server.runtime.unrestored
        Scene(server, client, "j").good_step()
    assert disk.folder.exists()


def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str | None, *arguments: str
) -> tuple[int, str, str]:
    """answer: what is typed on the terminal; None: there is no terminal."""
    stdin = io.StringIO(answer or "")
    monkeypatch.setattr(stdin, "isatty", lambda: answer is not None)
    monkeypatch.setattr("sys.stdin", stdin)
    return said(capsys, "delete-job", *arguments)


def test_the_command_asks(disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with disk.serve() as server, RawClient(server.address) as client:
        Scene(server, client, "j").good_step()
        client.call("CreateSnapshot", pb.CreateSnapshotRequest(job="j"))
        at = ("--job", "j", "--server", server.address)
        ended, out, err = shell(capsys, monkeypatch, None, *at)
        assert (ended, out) == (1, "")
        assert err == "optimd delete-job: expected --yes, since there is no terminal to ask on: nothing was deleted\n"
        for answer in ("", "n\n", "\n", "j\n"):
            ended, out, err = shell(capsys, monkeypatch, answer, *at)
            assert (ended, out) == (1, "")
            assert err.endswith("[y/N] optimd delete-job: nothing was deleted\n")
        assert server.on_loop(lambda: list(server.runtime.jobs)) == ["j"]
        ended, out, _ = shell(capsys, monkeypatch, "y\n", *at)
        assert (ended, out) == (
            0,
            f"j: deleted at step 1; its snapshots are kept in {disk.folder}.deleted-00000001\n",
        )
        ended, out, _ = shell(capsys, monkeypatch, None, *at, "--yes", "--with-snapshots", "--json")
        assert (ended, json.loads(out)) == (0, {"job": "j", "global_step": 0, "snapshots_kept": None})
        ended, _, err = shell(capsys, monkeypatch, None, "--job", "k", "--server", server.address, "--yes")
        assert (ended, err) == (1, "optimd delete-job: expected a job of this server, got 'k'\n")
