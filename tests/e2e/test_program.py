"""The program `optimd` as a whole: every command, what its options, variables and exit statuses have in common."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import optimd
import pytest
from optimdpb.program import PROGRAM
from optimdpb.program.ending import MEANINGS
from optimdpb.program.table import COMMANDS

from tests.support import docs_cli
from tests.support.program import child, said, told
from tests.support.proxy import Proxy
from tests.support.servers import ThreadServer

# What each command that talks to a server takes at the least, beside --server and --job.
ASKING = {
    "status": [],
    "set-lr": ["--schedule", "0.1"],
    "set-steps": ["5"],
    "pause": [],
    "resume": [],
    "delete-job": ["--yes"],
    "lr-range-test": [],
}
NOWHERE = "127.0.0.1:1"
ESCAPE = "\x1b"
HEAVY = ("grpc", "numba", "numpy", "google.protobuf", "rich", "pydantic", "optimd", "optimd_server")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPTIMD_SERVER", "OPTIMD_JOB", "OPTIMD_TIMEOUT_S", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadServer]:
    with ThreadServer() as running:
        for job in ("digits", "digits-2", "letters", "letters-2"):
            with optimd.connect(running.address, job=job, observer=True) as observer:
                observer.ensure_job({"w": np.zeros(3, np.float32)}, optimd.SGD(lr=0.1), optimd.Sync(1), steps_max=9)
        yield running


def command(name: str) -> click.Command:
    found = PROGRAM.get_command(click.Context(PROGRAM), name)
    assert found is not None
    return found


def test_alone_it_says_what_there_is_and_that_a_command_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys)
    assert (status, out) == (2, "")
    assert err == told(capsys, "--help") == told(capsys, "-h")


def test_its_help_has_every_command_variable_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--help")
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.what)}$", text, re.M), name
    for status, meaning in MEANINGS.items():
        assert re.search(rf"^  {status} +{re.escape(meaning)}$", text, re.M)
    for name in ("OPTIMD_SERVER", "OPTIMD_JOB", "OPTIMD_CONFIG", "NO_COLOR"):
        assert f"  {name} " in text
    assert max(map(len, text.splitlines())) <= 80


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--version") == f"optimd {optimd.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_reads_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, name, "--help")
    assert text.startswith(f"Usage: optimd {name} ")
    assert f"\n\nExample:\n  $ {command(name).example}\n" in text  # type: ignore[attr-defined]
    assert ESCAPE not in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("  $ ")) <= 80
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert f"  {parameter.opts[0]}" in text
            assert parameter.envvar is None or f"[env var: {parameter.envvar}" in " ".join(text.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_every_command_is_right(name: str) -> None:
    example = command(name).example  # type: ignore[attr-defined]
    words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'))
    assert words[:2] == ["optimd", name]
    command(name).make_context(name, words[2:])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_finds_facts_has_them_as_json(name: str) -> None:
    options = {option for parameter in command(name).params for option in parameter.opts}
    assert ("--json" in options) == (name not in ("serve", "completion"))
    assert ({"--server", "--timeout-s", "--job"} <= options) == (name in ASKING)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["stauts"], "there is no command 'stauts': did you mean status?"),
        (["list"], "there is no command 'list': there are serve, demo"),
        (["--verison"], "there is no option --verison: did you mean --version?"),
        (["status", "--serverr", "x"], "there is no option --serverr: did you mean --server?"),
        (["status", "--address", "x"], "there is no option --address"),
        (["set-lr", "--at", "5"], "there is no option --at"),
        (["serve", "--data-dri", "x"], "there is no option --data-dri: did you mean --data-dir?"),
        (["doctor", "--servre=x"], "there is no option --servre: did you mean --server?"),
        (["plot-schedule", "0.1"], "expected --steps N"),
        (["plot-schedule", "--steps", "5"], "expected SCHEDULE"),
        (["completion", "tcsh"], "bash|zsh|fish: 'tcsh' is not one of"),
        (["status", "127.0.0.1:50051"], "expected no argument '127.0.0.1:50051': write --server 127.0.0.1:50051"),
        (["pause", "--job", "j", "j"], "expected no argument 'j': write --job j"),
        (["serve", "0.0.0.0:50051"], "expected no argument '0.0.0.0:50051': write --listen 0.0.0.0:50051"),
        (["set-steps", "--job", "j", "0"], "N: expected a whole number of at least 1, got '0'"),
        (["pause", "--job", "j", "--at-step", "-1"], "--at-step: expected a whole number of at least 0, got '-1'"),
        (["status", "--timeout-s", "0"], "--timeout-s: expected a number from 0.001 to 86400, got '0'"),
    ],
)
def test_wrong_usage_is_told_with_what_is_right(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(capsys, *arguments)
    name = f"optimd {arguments[0]}" if arguments[0] in COMMANDS else "optimd"
    assert (status, out) == (2, "")
    assert err.startswith(f"{name}: {near}"), err
    assert err.endswith(f"{name} --help says more\n")


@pytest.mark.parametrize("name", ASKING)
def test_a_job_that_is_not_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name != "status":
        status, _, err = said(capsys, name, *ASKING[name])
        assert (status, err.splitlines()[0]) == (2, f"optimd {name}: expected --job NAME, or OPTIMD_JOB")


@pytest.mark.parametrize("name", ASKING)
def test_a_wrong_address(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (name, "--job", "j", *ASKING[name])
    status, out, err = said(capsys, *asked, "--server", "nowhere")
    assert (status, out) == (2, "")
    assert err.startswith(f"optimd {name}: --server: expected HOST:PORT, got 'nowhere'")
    monkeypatch.setenv("OPTIMD_SERVER", "elsewhere")
    status, out, err = said(capsys, *asked)
    assert (status, out) == (2, "")
    assert err.startswith(f"optimd {name}: OPTIMD_SERVER: expected HOST:PORT, got 'elsewhere'")


@pytest.mark.parametrize("name", ASKING)
def test_no_server(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (name, "--job", "j", *ASKING[name], "--server", NOWHERE)
    status, out, err = said(capsys, *asked)
    assert (status, out, len(err.splitlines())) == (3, "", 1)
    assert err.startswith(f"optimd {name}: expected a server at {NOWHERE}, it cannot be reached: ")
    status, out, err = said(capsys, *asked, "--json")
    assert (status, out) == (3, "")
    error = json.loads(err)["error"]
    assert (error["reason"], error["exit_status"]) == ("SERVER_UNAVAILABLE", 3)
    assert error["message"].startswith(f"expected a server at {NOWHERE}")


@pytest.mark.parametrize("name", ASKING)
def test_an_unknown_job(name: str, server: ThreadServer, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (name, "--job", "nobody", *ASKING[name], "--server", server.address)
    status, out, err = said(capsys, *asked)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "got 'nobody'" in err
    status, out, err = said(capsys, *asked, "--json")
    assert (status, out) == (1, "")
    assert json.loads(err)["error"]["reason"] == "UNKNOWN_JOB"


@pytest.mark.parametrize("arguments", [["status", "--serverr"], ["pause"], ["doctor", "--server", "x"]], ids=" ".join)
def test_wrong_usage_is_json_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, *arguments, "--json")
    assert (status, out) == (2, "")
    error = json.loads(err)["error"]
    assert (error["reason"], error["exit_status"]) == ("WRONG_USAGE", 2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("status", []),
        ("set-lr", ["--schedule", "0.2"]),
        ("set-steps", ["8"]),
        ("pause", []),
        ("resume", []),
        ("delete-job", ["--yes"]),
    ],
)
def test_variables_take_the_place_of_options_and_options_count_before_them(
    name: str,
    arguments: list[str],
    server: ThreadServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPTIMD_SERVER", server.address)
    monkeypatch.setenv("OPTIMD_JOB", "letters")
    found = json.loads(told(capsys, name, *arguments, "--json"))
    assert [job["job"] for job in found.get("jobs", [found])] == ["letters"]
    monkeypatch.setenv("OPTIMD_SERVER", NOWHERE)
    assert said(capsys, name, *arguments)[0] == 3
    found = json.loads(told(capsys, name, *arguments, "--json", "--server", server.address, "--job", "digits-2"))
    assert [job["job"] for job in found.get("jobs", [found])] == ["digits-2"]


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_told(
    server: ThreadServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(server.address) as proxy:
        proxy.hold_answers = True
        assert said(capsys, "status", "--server", proxy.address, "--timeout-s", "0.2")[0] == 3
        monkeypatch.setenv("OPTIMD_TIMEOUT_S", "0.2")
        assert said(capsys, "status", "--server", proxy.address)[0] == 3


def on_a_terminal(*arguments: str, **variables: str) -> str:
    """What a run writes to a terminal."""
    main_end, own_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", **variables}
    command = [sys.executable, "-m", "optimd", *arguments]
    with subprocess.Popen(command, env=environment, stdin=own_end, stdout=own_end, stderr=own_end) as run:
        os.close(own_end)
        written = b""
        while True:
            try:
                more = os.read(main_end, 4096)
            except OSError:  # as Linux says that nobody has the other end any more
                break
            if not more:
                break
            written += more
        run.wait(30)
    os.close(main_end)
    return written.decode()


def test_colours_are_for_terminals_alone(server: ThreadServer) -> None:
    for arguments in (("status", "--server", server.address), ("status", "--server", NOWHERE)):
        assert ESCAPE in on_a_terminal(*arguments)
        for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            assert ESCAPE not in on_a_terminal(*arguments, **variables)
        run = child(*arguments, env={"FORCE_COLOR": "1"})
        assert ESCAPE not in run.stdout + run.stderr


def test_names_of_strangers_are_no_markup(server: ThreadServer) -> None:
    written = on_a_terminal("status", "--server", NOWHERE, "--job", "[red]x[/red]")
    assert "it cannot be reached" in written
    written = on_a_terminal("status", "--server", server.address, "--job", "[red]x[/red]\x07")
    assert "[red]x[/red]\\x07" in written.replace("\\\\", "\\")


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["plot-schedule", "0.1", "--steps", "2", "--json"]])
def test_a_reader_that_goes_away_is_no_traceback(arguments: list[str], server: ThreadServer) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    run = subprocess.run(
        [sys.executable, "-m", "optimd", *arguments],
        env={**os.environ, "OPTIMD_SERVER": server.address},
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write_end)
    assert (run.returncode, run.stderr) == (141, "")


@pytest.mark.parametrize("json_too", [False, True])
def test_an_interrupt_is_a_line_and_a_status(json_too: bool, server: ThreadServer) -> None:
    with Proxy(server.address) as proxy:
        proxy.hold_answers = True
        command = [sys.executable, "-m", "optimd", "status", "--server", proxy.address, "--timeout-s", "60"]
        with subprocess.Popen(
            [*command, *(["--json"] if json_too else [])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            proxy.wait_sent(200)
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=30)
    assert (run.returncode, out) == (130, "")
    if json_too:
        assert json.loads(err)["error"]["reason"] == "INTERRUPTED"
    else:
        assert err == "optimd status: interrupted\n"


def test_help_imports_nothing_that_it_does_not_show() -> None:
    script = "import sys; from optimdpb.program import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    for arguments in (["--help"], ["--version"], ["completion", "zsh"]):
        run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        loaded = set(run.stderr.split())
        assert "click" in loaded
        assert not {name for name in loaded if name in HEAVY or name.startswith(tuple(f"{each}." for each in HEAVY))}
    run = subprocess.run([sys.executable, "-c", script, "serve", "--help"], capture_output=True, text=True, check=True)
    assert not {"grpc", "numba", "numpy", "pydantic"} & set(run.stderr.split())


def test_help_is_there_as_soon_as_its_library() -> None:
    bare, help_ = ["-c", "import click"], ["-c", "from optimdpb.program import main; main(['--help'])"]
    took_s: dict[str, list[float]] = {"bare": [], "help": []}
    for _ in range(7):
        for name, arguments in (("bare", bare), ("help", help_)):
            started_s = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            took_s[name].append(time.perf_counter() - started_s)
    assert min(took_s["help"]) < 2 * min(took_s["bare"])


def test_the_library_does_not_load_the_program() -> None:
    script = "import sys, optimd; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"click", "rich", "pydantic", "optimd.commands"} & set(run.stdout.split())


COMPLETES = [
    ("optimd st", ["status"]),
    ("optimd set-", ["set-lr", "set-steps"]),
    ("optimd --ver", ["--version"]),
    ("optimd serve --data", ["--data-dir"]),
    ("optimd status --s", ["--server"]),
    ("optimd completion f", ["fish"]),
    ("optimd pause --job letters-", ["letters-2"]),
]


@pytest.mark.parametrize(("line", "found"), COMPLETES, ids=[line for line, _ in COMPLETES])
def test_bash_completes(line: str, found: list[str], server: ThreadServer, tmp_path: Path) -> None:
    program = tmp_path / "optimd"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom optimdpb.program import main\nsys.exit(main())\n")
    program.chmod(0o755)
    words = line.split()
    script = (
        'eval "$(optimd completion bash)"; '
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        "$(complete -p optimd | sed 's/.*-F \\([^ ]*\\) .*/\\1/') optimd; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": path, "OPTIMD_SERVER": server.address},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (sorted(run.stdout.split()), run.stderr) == (found, "")


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_every_shell_has_its_script(shell: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert word in told(capsys, "completion", shell)


def test_the_page_is_what_make_docs_cli_writes() -> None:
    assert docs_cli.PATH.read_text() == docs_cli.page(), "run: make docs-cli"


def test_completing_a_job_where_no_server_is_completes_nothing() -> None:
    environment = {"_OPTIMD_COMPLETE": "bash_complete", "COMP_WORDS": "optimd pause --job d", "COMP_CWORD": "3"}
    run = child(env={**environment, "OPTIMD_SERVER": NOWHERE})
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")
