"""Every place where the client can wait is known: it has a row among those that are seen to say why, or a bound."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.rows_waits import WAITS

CLIENT = Path(__file__).parents[2] / "client" / "optimd"
# Methods that wait, of threads, events, processes, sockets and gRPC; those of a transport; and a function of Ray's.
WAITING = {
    *("acquire", "communicate", "connect", "create_connection", "future", "readline", "recv", "recv_fds", "result"),
    *("rpc", "select", "sendall", "sleep", "wait", "wrap_socket"),
}
OF_A_TRANSPORT = {"call", "open_local", "pull", "push", "share_memory", "step", "upload"}


def waits_of(path: Path) -> Iterator[str]:
    """Functions of a file in which something waits."""

    def visit(node: ast.AST, where: tuple[str, ...]) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = (*where, child.name) if named else where
            if isinstance(child, ast.Call) and _waits(child):
                yield ".".join(where)
            yield from visit(child, inner)

    module = ".".join(path.relative_to(CLIENT).with_suffix("").parts)
    return visit(ast.parse(path.read_text()), (module,))


def _waits(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Call):  # what gRPC makes for a method is called
        return isinstance(function.func, ast.Attribute) and function.func.attr == "method"
    if isinstance(function, ast.Name):
        return function.id in ("rpc", "ask")
    if not isinstance(function, ast.Attribute):
        return False
    of = ast.unparse(function.value)
    if of.endswith("transport"):
        return function.attr in OF_A_TRANSPORT
    is_thread = function.attr == "join" and not call.args and not isinstance(function.value, ast.Constant)
    return function.attr in WAITING or is_thread or (of == "ray" and function.attr == "get")


# Not said here but by whoever calls it; what is bounded below the silence; and what nobody waits for.
PASSES_ON, BRIEF, ASIDE = "its caller says it", "brief: ", "in the background"
# Inside of a member's call heartbeats look after all of these.
MEMBER = "step() and a server that hangs"
WHERE = {
    "bulk._Helper.stop": BRIEF + "a copy in memory",
    "commands.changes._send": PASSES_ON,
    "commands.common.ask": BRIEF + "--timeout-s",
    "commands.common.job_names": PASSES_ON,
    "commands.deletion._agree": BRIEF + "it has asked, on the terminal",
    "commands.deletion.main": PASSES_ON,
    "commands.doctor.connection": BRIEF + "CONNECT_S",
    "commands.doctor.program": PASSES_ON,
    "commands.range_test._stop": PASSES_ON,
    "commands.range_test._run": BRIEF + "WORDS_INTERVAL_S, then it tells: tests/e2e/test_range_test.py",
    "commands.range_test.main": PASSES_ON,
    "commands.status.look": PASSES_ON,
    "creation.Creation._wait_for": "others work on what is to be replaced",
    "delivery.Delivery._move_to_fresh_epoch": MEMBER,
    "delivery.Delivery._pause": "no server any more, a step",
    "delivery.Delivery._stay_a_member": MEMBER,
    "delivery.Delivery.ask": "the round waits for another",
    "demo.run.train": BRIEF + "the screen shows how far it has come",
    "demo.run.train.work": PASSES_ON,
    "lease.LeaseKeeper._renew": ASIDE,
    "membership.Membership._open_calls": MEMBER,
    "membership.Membership._share": MEMBER,
    "membership.Membership.leave": BRIEF + "LEAVE_TIMEOUT_S",
    "membership.Membership.prepare": MEMBER,
    "patience.Patience.wait": "no server any more, a pull",
    "puller.Puller._ask.pull": "pull() and a server that hangs",
    "pusher.Pusher._send_once": "the round waits for another",
    "pusher.Pusher._settle_open": MEMBER,
    "pusher.Pusher.free_views": "gradient_buffers() first, and a server that hangs",
    "ray.__init__._why_starting": BRIEF + "ANSWER_S, behind what it has said",
    "ray.actor.ServerActor._watch": ASIDE,
    "ray.actor.ServerActor.ended": ASIDE,
    "ray.answers.answer_of": BRIEF + "SILENCE_S, then it is told: tests/e2e/test_ray.py",
    "ray.child.Child._wait": ASIDE,
    "ray.child.Child.first_line": PASSES_ON,
    "ray.child.Child.status": BRIEF + "it has ended",
    "ray.child.Child.stop": PASSES_ON,
    "ray.handle.ServerHandle._end": BRIEF + "LOOK_S, and what is there already",
    "ray.handle.ServerHandle.log": BRIEF + "ANSWER_S",
    "session.Session._persist": "status() and a server that hangs",
    "session.Session.call": PASSES_ON,
    "session.Session.join.attempt": PASSES_ON,
    "session.Session.upload": "an upload over a slow link",
    "surroundings.Machine.repeat.run": ASIDE,
    "surroundings.Machine.sleep": PASSES_ON,
    "transport.grpc.GrpcTransport._stream.exchange": "a push over a slow link",
    "transport.grpc.GrpcTransport._watched": "an upload over a slow link",
    "transport.grpc.GrpcTransport.call": PASSES_ON,
    "transport.grpc.GrpcTransport.pull.receive": "a pull over a slow link",
    "transport.grpc.GrpcTransport.push": PASSES_ON,
    "transport.grpc.GrpcTransport.step": PASSES_ON,
    "transport.local.LocalConnection.__init__": MEMBER,
    "transport.local.LocalConnection._some": MEMBER,
    "transport.local.LocalConnection.call": MEMBER,
    "transport.moving.Moving.watch.run": ASIDE,
    "transport.nobody._speaks_tls": BRIEF + "PROBE_S",
    "transport.shared._knock": BRIEF + "CONNECT_S_MAX",
    "transport.shared.fetch": BRIEF + "CONNECT_S_MAX",
    "words.Words._asked": ASIDE,
    "worker.Worker.ensure_job": "ensure_job() first, and a server that hangs",
    "worker.Worker.snapshot": "snapshot() and a server that hangs",
}


def test_every_wait_is_known() -> None:
    found = {where for path in sorted(CLIENT.rglob("*.py")) for where in waits_of(path)}
    assert found == WHERE.keys()


def test_what_is_said_of_them_is_a_row_or_a_reason() -> None:
    for where, why in WHERE.items():
        assert why in WAITS or why in (PASSES_ON, ASIDE) or why.startswith(BRIEF), where
