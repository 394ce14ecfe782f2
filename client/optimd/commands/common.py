"""What the commands that talk to a server share: its address, the job, one patient call, what they print."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from google.protobuf.message import Message
from optimdpb.errors import OptimdError, ServerUnavailable
from optimdpb.program.command import Number, Parsed
from optimdpb.program.ending import json_text
from optimdpb.v1 import optimd_pb2 as pb

from optimd.address import check_address
from optimd.patience import Patience
from optimd.surroundings import Machine
from optimd.transport import CallBroken, CallLost, CallThrottled, GrpcTransport, NoServer, Transport

F = TypeVar("F", bound=Callable[..., Any])

ADDRESS = "127.0.0.1:50051"
TIMEOUT_S = 5.0
# So long a shell that completes a name waits for the server.
COMPLETION_S = 1.0
PAGE_SIZE = 1000
ADDRESS_TYPE = Parsed("HOST:PORT", check_address)


def _names_that_begin(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Jobs of the server that is meant, for the shell; none where it does not answer at once."""
    address = context.params.get("server") or ADDRESS
    try:
        with connected(address) as transport:
            names = job_names(transport, address, COMPLETION_S)
    except OptimdError:
        return []
    return [name for name in names if name.startswith(begun) and name.isprintable()]


def server_options(function: F) -> F:
    """--server and --timeout-s."""
    server = click.option(
        "--server",
        type=ADDRESS_TYPE,
        metavar="HOST:PORT",
        default=ADDRESS,
        show_default=True,
        envvar="OPTIMD_SERVER",
        show_envvar=True,
        help="The server.",
    )
    timeout = click.option(
        "--timeout-s",
        type=Number(float, 0.001, 86_400),
        metavar="SECONDS",
        default=TIMEOUT_S,
        show_default=True,
        envvar="OPTIMD_TIMEOUT_S",
        show_envvar=True,
        help="Seconds that the server may take to answer a call.",
    )
    return server(timeout(function))


def job_option(what: str, *, required: bool = True) -> Callable[[F], F]:
    """--job."""
    return click.option(
        "--job",
        metavar="NAME",
        required=required,
        envvar="OPTIMD_JOB",
        show_envvar=True,
        shell_complete=_names_that_begin,
        help=what,
    )


@contextmanager
def connected(address: str) -> Iterator[Transport]:
    """A transport to a server, closed at the end."""
    transport = GrpcTransport(address)
    try:
        yield transport
    finally:
        transport.close()


def tell(facts: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Write what a command found to stdout."""
    sys.stdout.write(json_text(dict(facts)) if as_json else text)


def ask(transport: Transport, address: str, method: str, request: Message, timeout_s: float = TIMEOUT_S) -> Any:
    """One call. A server that is full is asked again; one that is not there is not waited for.

    address: for messages alone. Raises Refused; ServerUnavailable, after timeout_s for a call that stays unanswered.
    """
    patience = Patience(timeout_s, Machine())
    while True:
        try:
            return transport.call(method, request, timeout_s)
        except CallBroken as error:
            raise error.refusal from error
        except NoServer as error:
            raise ServerUnavailable(str(error)) from error
        except CallLost as error:
            raise ServerUnavailable(f"expected a server at {address}, it cannot be reached: {error}") from error
        except CallThrottled as error:
            if not patience.wait(error.retry_delay_s):
                raise ServerUnavailable(f"expected an answer of {address}, it is full: {error}") from error


def job_names(transport: Transport, address: str, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Of every job of the server, in order. Raises as ask()."""
    names: list[str] = []
    token = ""
    while True:
        request = pb.ListJobsRequest(page_size=PAGE_SIZE, page_token=token)
        page = ask(transport, address, "ListJobs", request, timeout_s)
        names += [job.job for job in page.jobs]
        token = page.next_page_token
        if not token:
            return names


def who() -> str:
    """The user and machine of this process, for a job's history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user id
        user = "unknown"
    return f"{user}@{socket.gethostname()}"[:128]
