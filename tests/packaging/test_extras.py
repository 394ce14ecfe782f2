"""Extras and code agree: what an extra installs is imported somewhere, what is imported is installed by something."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("proto/optimdpb", "server/optimd_server", "client/optimd")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions whose modules have other names.
MODULES = {
    "grpcio": {"grpc"},
    "grpcio-health-checking": {"grpc_health"},
    "grpcio-reflection": {"grpc_reflection"},
    "googleapis-common-protos": {"google.rpc"},
    "protobuf": {"google.protobuf"},
    "scikit-learn": {"sklearn"},
    # Comes with numba, which pins its version.
    "numba": {"numba", "llvmlite"},
}


def modules_of(requirements: list[str]) -> set[str]:
    names = [re.match(r"[\w-]+", text)[0] for text in requirements]  # type: ignore[index]
    return {module for name in names if name != "optimd" for module in MODULES.get(name, {name.replace("-", "_")})}


def imported() -> set[str]:
    """Every module that the three packages import, but those of Python and their own."""
    names: set[str] = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.partition(".")[0] not in {*sys.stdlib_module_names, *OWN}}


OWN = {Path(room).name for room in ROOMS}
IMPORTED = imported()
EXTRAS = {name: modules_of(needs) for name, needs in PROJECT["optional-dependencies"].items() if name != "dev"}
REQUIRED = modules_of(PROJECT["dependencies"])


def is_in(module: str, name: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_every_extra_has_code_that_needs_it() -> None:
    for extra, modules in EXTRAS.items():
        unused = {module for module in modules if not any(is_in(module, name) for name in IMPORTED)}
        assert not unused, f"nothing imports what the extra {extra!r} installs: {unused}"


def test_everything_imported_is_installed_by_a_dependency_or_an_extra() -> None:
    known = REQUIRED.union(*EXTRAS.values())
    unknown = {name for name in IMPORTED if not any(is_in(module, name) or is_in(name, module) for module in known)}
    assert not unknown


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ray_is_imported_when_it_is_first_used() -> None:
    program = """
import sys, optimd
assert "ray" not in sys.modules and "optimd.ray" not in sys.modules
assert ("ray" in dir(optimd)) == bool(__import__("importlib.util").util.find_spec("ray")) and "Adam" in dir(optimd)
try:
    optimd.rya
except AttributeError as error:
    print(error)
"""
    assert run(program) == "module 'optimd' has no attribute 'rya'\n"


def test_without_ray_the_error_says_what_to_install() -> None:
    program = """
import sys
sys.modules["ray"] = None
import optimd
for _ in range(2):
    try:
        optimd.ray.start()
    except ImportError as error:
        print(error)
"""
    assert run(program) == "optimd.ray needs Ray: pip install 'optimd[ray]'\n" * 2
