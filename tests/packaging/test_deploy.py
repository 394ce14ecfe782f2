"""The compose file describes what the images and commands really take, and its programs run."""

from __future__ import annotations

import re
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


def test_its_workers_train_and_find_nothing_to_do_the_second_time(tmp_path: Path) -> None:
    """As two times `docker compose up` on one volume."""
    pytest.importorskip("sklearn")
    for expected in (r"w\d: 20 steps, last loss \d", r"w\d: 0 steps$"):
        with ServerProcess("--data-dir", str(tmp_path)) as server:
            workers = [program("worker.py", server.address, f"w{index}", str(index), "2", "20") for index in range(2)]
            for worker in workers:
                said, error = worker.communicate(timeout=90)
                assert (worker.returncode, error) == (0, "")
                assert re.match(expected, said.strip())
            assert server.terminate() == 0


def test_health_is_one_line_and_a_status() -> None:
    with ServerProcess() as server:
        healthy = program("health.py", server.address)
        assert (healthy.communicate(timeout=30), healthy.returncode) == (("", ""), 0)
    away = program("health.py", server.address)
    said, error = away.communicate(timeout=30)
    assert (away.returncode, error, len(said.splitlines())) == (1, "", 1)
    assert said.startswith("UNAVAILABLE: ")
