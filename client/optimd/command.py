"""What the commands that talk to a server share: its address, one patient call, how an error ends a run."""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from optimdpb.errors import OptimdError, ServerUnavailable

from optimd.address import check_address
from optimd.patience import Patience
from optimd.surroundings import Machine
from optimd.transport import CallBroken, CallLost, CallThrottled, GrpcTransport, NoServer, Transport

EXIT_OK, EXIT_FAILED = 0, 1
ADDRESS = "127.0.0.1:50051"
TIMEOUT_S = 5.0


def run(name: str, address: str, work: Callable[[Transport], str]) -> int:
    """Write what work(transport) returns to stdout. Returns 0; 1, with a line on stderr, if it raises OptimdError."""
    transport = GrpcTransport(address)
    try:
        said = work(transport)
    except OptimdError as error:
        complain(name, error)
        return EXIT_FAILED
    finally:
        transport.close()
    sys.stdout.write(said)
    return EXIT_OK


def ask(transport: Transport, address: str, method: str, request: Message) -> Any:
    """One call. A server that is full is asked again; one that is not there is not waited for.

    address: for messages alone. Raises Refused; ServerUnavailable, after TIMEOUT_S for a call that stays unanswered.
    """
    patience = Patience(TIMEOUT_S, Machine())
    while True:
        try:
            return transport.call(method, request, TIMEOUT_S)
        except CallBroken as error:
            raise error.refusal from error
        except NoServer as error:
            raise ServerUnavailable(str(error)) from error
        except CallLost as error:
            raise ServerUnavailable(f"expected a server at {address}, it cannot be reached: {error}") from error
        except CallThrottled as error:
            if not patience.wait(error.retry_delay_s):
                raise ServerUnavailable(f"expected an answer of {address}, it is full: {error}") from error


def address_of(text: str) -> str:
    """HOST:PORT as it is. Raises ArgumentTypeError for anything else."""
    try:
        return check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def printable(text: str) -> str:
    """The text with everything escaped that a terminal would act on: it may come from a stranger."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def complain(name: str, error: Exception) -> None:
    """One line on stderr."""
    sys.stderr.write(f"optimd {name}: {printable(' '.join(str(error).split()))}\n")


def who() -> str:
    """The user and machine of this process, for a job's history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user id
        user = "unknown"
    return f"{user}@{socket.gethostname()}"[:128]
