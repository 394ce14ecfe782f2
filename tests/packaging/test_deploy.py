"""The compose file describes what the images and commands really take."""

from __future__ import annotations

from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_compose_file_fits_the_images() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"server", "worker-0", "worker-1"}
    for service in services.values():
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for index in range(2):
        worker = services[f"worker-{index}"]
        assert worker["depends_on"]["server"]["condition"] == "service_healthy"
        address, name, position, workers, steps = worker["command"]
        assert (address, name, position, workers) == ("server:50051", f"w{index}", str(index), "2")
        assert int(steps) > 0


def test_the_images_run_as_nobody_in_particular() -> None:
    for dockerfile in DEPLOY.glob("docker/Dockerfile*"):
        lines = dockerfile.read_text().splitlines()
        assert sum(line.startswith("FROM ") for line in lines) == 2, "multi-stage"
        users = [line.split()[1] for line in lines if line.startswith("USER ")]
        assert users
        assert users[-1] != "0"
        for source in (line.split()[-2] for line in lines if line.startswith("COPY ") and "--from" not in line):
            assert (DEPLOY.parent / source).exists()
