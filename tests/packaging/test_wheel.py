"""The built wheel works in a clean environment, from outside the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    subprocess.run([*command, str(ROOT)], check=True)
    (built,) = out.glob("optimd-*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel. Third-party packages are borrowed from the one that runs the tests;
    its own editable optimd is not, because a .pth file is not followed from another's folder."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(clean: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(clean / "bin" / "python"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=True)


PROGRAM = ("-c", "import sys; from optimdpb.program import main; sys.exit(main())")


def test_the_wheel_holds_the_three_packages_and_the_contract(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"optimd", "optimd_server", "optimdpb"}
    for needed in ("optimdpb/optimd.proto", "optimdpb/v1/optimd_pb2.py", "optimd/py.typed", "optimd_server/py.typed"):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_imports_come_from_the_wheel(clean: Path, tmp_path: Path) -> None:
    said = run(clean, tmp_path, "-c", "import optimd, optimd_server, optimdpb; print(optimd.__file__)").stdout
    assert str(clean) in said


def test_the_program_says_its_version_and_commands(clean: Path, tmp_path: Path) -> None:
    assert run(clean, tmp_path, *PROGRAM, "--version").stdout.startswith("optimd 0.")
    assert "--listen" in run(clean, tmp_path, *PROGRAM, "serve", "--help").stdout


@pytest.mark.long
def test_training_works_from_outside_the_repository(clean: Path, tmp_path: Path) -> None:
    assert "works with grpcio" in run(clean, tmp_path, str(ROOT / "tests" / "packaging" / "smoke.py")).stdout


@pytest.mark.long
def test_the_demo_runs_from_outside_the_repository(clean: Path, tmp_path: Path) -> None:
    said = run(clean, tmp_path, *PROGRAM, "demo", "--workers", "2", "--steps", "60", "--json")
    (facts,) = json.loads(said.stdout)["runs"]
    assert facts["global_step"] == 60
    assert (tmp_path / "optimd-demo.png").exists()
