"""The compose file describes what the images and commands really take, and its programs run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import ServerProcess

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
# What saving 4 bytes takes at the least, in seconds: a disk of 50 MB/s.
SECONDS_PER_NUMBER = 4 / 50e6


def test_the_compose_file_fits_the_images() -> None:
    assert set(SERVICES) == {"server", "worker-0", "worker-1"}
    for service in SERVICES.values():
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for index in range(2):
        worker = SERVICES[f"worker-{index}"]
        assert worker["depends_on"]["server"]["condition"] == "service_healthy"
        address, name, position, workers, steps = worker["command"]
        assert (address, name, position, workers) == ("server:50051", f"w{index}", str(index), "2")
        assert int(steps) > 0


def test_the_server_has_time_to_save_the_largest_model_of_the_readme() -> None:
    millions = [int(number) for number in re.findall(r"(\d+) M\b", (ROOT / "README.md").read_text())]
    seconds = int(SERVICES["server"]["stop_grace_period"].removesuffix("s"))
    assert seconds > 2 * 3 * max(millions) * 1e6 * SECONDS_PER_NUMBER, "parameters and Adam's two slots"


def test_it_is_restarted_and_limited_and_writes_to_its_volume_alone() -> None:
    server = SERVICES["server"]
    assert server["restart"] == "unless-stopped"
    assert server["read_only"] is True
    assert server["volumes"] == ["data:/data"]
    assert all("mem_limit" in service and service["init"] for service in SERVICES.values())


def test_the_images_run_as_nobody_in_particular() -> None:
    for dockerfile in DEPLOY.glob("docker/Dockerfile*"):
        lines = dockerfile.read_text().splitlines()
        assert sum(line.startswith("FROM ") for line in lines) == 2, "multi-stage"
        users = [line.split()[1] for line in lines if line.startswith("USER ")]
        assert users
        assert users[-1] != "0"
        for source in (line.split()[-2] for line in lines if line.startswith("COPY ") and "--from" not in line):
            assert (DEPLOY.parent / source).exists()


def program(name: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(DEPLOY / "docker" / name), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def instruction(dockerfile: str, name: str) -> Any:
    """The value of an instruction that is a list, or of a part of it that is."""
    lines = (DEPLOY / "docker" / dockerfile).read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name} "))
    return json.loads(line[line.index("[") :])


def started(data: Path) -> tuple[subprocess.Popen[str], str]:
    """What the server's image runs, on a free port, and its address from this machine."""
    assert instruction("Dockerfile", "ENTRYPOINT") == ["optimd"]
    arguments = {"0.0.0.0:50051": "0.0.0.0:0", "/data": str(data)}
    command = [arguments.get(word, word) for word in instruction("Dockerfile", "CMD")]
    server = subprocess.Popen([sys.executable, "-m", "optimd", *command], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("serving on 0.0.0.0:")
    return server, f"127.0.0.1:{line.rpartition(':')[2].strip()}"


def test_two_times_up_train_and_then_find_nothing_to_do(tmp_path: Path) -> None:
    """As two times `docker compose up` and `stop` on one volume, with the commands of the images and of the file."""
    pytest.importorskip("sklearn")
    for expected, told in ((r"w\d: 20 steps, last loss \d", ""), (r"w\d: 0 steps$", "has finished at step 20")):
        server, address = started(tmp_path)
        try:
            python, script, _ = instruction("Dockerfile", "HEALTHCHECK")
            assert python == "python"
            assert program(script, address).wait(30) == 0, "workers are started once this says so"
            workers = []
            for index in range(2):
                python, script = instruction("Dockerfile.worker", "ENTRYPOINT")
                _, *same, steps = SERVICES[f"worker-{index}"]["command"]
                assert int(steps) >= 20
                workers.append(program(script, address, *same, "20"))
            for worker in workers:
                said, error = worker.communicate(timeout=90)
                assert worker.returncode == 0, error
                assert told in error
                assert bool(told) == bool(error)
                assert re.match(expected, said.strip())
        finally:
            server.terminate()
        assert server.wait(60) == 0


def test_the_commands_that_build_the_server_s_image_run() -> None:
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RUN python -c "))
    command = [sys.executable, *shlex.split(line)[2:]]
    subprocess.run(command, check=True, timeout=100)


def test_health_is_one_line_and_a_status() -> None:
    with ServerProcess() as server:
        healthy = program("health.py", server.address)
        assert (healthy.communicate(timeout=30), healthy.returncode) == (("", ""), 0)
    away = program("health.py", server.address)
    said, error = away.communicate(timeout=30)
    assert (away.returncode, error, len(said.splitlines())) == (1, "", 1)
    assert said.startswith("UNAVAILABLE: ")
