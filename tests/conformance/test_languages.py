"""The contract generates as it stands for other languages, under names that collide with nothing."""

from __future__ import annotations

import keyword
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from optimdpb.v1 import optimd_pb2 as pb

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "proto" / "optimd" / "v1" / "optimd.proto"
PROTOC = shutil.which("protoc", path=str(Path(sys.executable).parent)) or shutil.which("protoc")
MESSAGES = set(pb.DESCRIPTOR.message_types_by_name)


def test_the_file_says_under_which_name_each_language_has_it() -> None:
    options = pb.DESCRIPTOR.GetOptions()
    path, _, package = options.go_package.partition(";")
    assert (path, package) == ("optimd/v1", "optimdv1")
    assert (options.java_package, options.java_multiple_files) == ("optimd.v1", True)
    assert options.csharp_namespace == "Optimd.V1"
    assert options.objc_class_prefix == "OPD"


def test_the_one_field_that_python_cannot_name_has_a_note() -> None:
    fields = [field for message in pb.DESCRIPTOR.message_types_by_name.values() for field in message.fields]
    assert [field.name for field in fields if keyword.iskeyword(field.name)] == ["async"]
    comment = re.search(r"((?: *//[^\n]*\n)+) *Async async = \d+;", CONTRACT.read_text())
    assert comment is not None
    assert 'getattr(consistency, "async")' in comment[1]


def test_a_field_named_async_is_set_as_its_note_says() -> None:
    consistency = pb.Consistency()
    getattr(consistency, "async").SetInParent()
    assert consistency == pb.Consistency(**{"async": pb.Async()})
    assert consistency.WhichOneof("model") == "async"


@pytest.mark.skipif(PROTOC is None, reason="protoc is absent: nothing is generated")
@pytest.mark.parametrize("language", ["cpp", "csharp", "java", "objc", "php", "python", "ruby"])
def test_protoc_needs_no_flag(language: str, tmp_path: Path) -> None:
    command = [str(PROTOC), "-I", str(ROOT / "proto"), f"--{language}_out={tmp_path}", "optimd/v1/optimd.proto"]
    subprocess.run(command, check=True, timeout=60)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    text = "\n".join(path.read_text() for path in files)
    match language:
        case "java":
            names = {path.stem for path in (tmp_path / "optimd" / "v1").glob("*.java")}
            assert names >= MESSAGES, "one file for each message"
        case "objc":
            assert {f"OPD{name}" for name in MESSAGES} <= set(re.findall(r"@interface (\w+)", text))
            assert all(name.startswith("OPD") for name in re.findall(r"@interface (\w+)", text))
        case "csharp":
            assert set(re.findall(r"^namespace ([\w.]+)", text, re.M)) == {"Optimd.V1"}
        case "cpp":
            assert all(re.search(rf"class {name} final", text) for name in MESSAGES)
        case _:
            assert files
