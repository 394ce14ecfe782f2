"""The contract generates as it stands for other languages, under names that collide with nothing."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from optimd_server.service.errors import status_of
from optimdpb.errors import Refused
from optimdpb.v1 import optimd_pb2 as pb

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "proto" / "optimd" / "v1" / "optimd.proto"
PROTOC = shutil.which("protoc", path=str(Path(sys.executable).parent)) or shutil.which("protoc")
PAGE = (ROOT / "docs" / "other-languages.md").read_text()
BUF = Path(sys.executable).parent / "buf"
# Stands for the plugins of languages that are not here: it takes what protoc gives it and notes the file's package.
PLUGIN = """#!{python}
import sys
from google.protobuf.compiler import plugin_pb2 as plugin

request = plugin.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
(file,) = [file for file in request.proto_file if file.name in request.file_to_generate]
answer = plugin.CodeGeneratorResponse(supported_features=plugin.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
answer.file.add(name=sys.argv[0].rpartition("/")[2], content=file.options.go_package)
sys.stdout.buffer.write(answer.SerializeToString())
"""
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
    text = "\n".join(path.read_text(errors="replace") for path in files)
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


def block_of_page(language: str) -> str:
    """The page's one block in that language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return str(block)


def test_the_page_has_no_block_that_is_not_run() -> None:
    assert set(re.findall(r"```(\w+)", PAGE)) == {"sh", "proto"}


@pytest.mark.skipif(PROTOC is None, reason="protoc is absent: nothing is generated")
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "protoc").symlink_to(str(PROTOC))
    for name in ("protoc-gen-go", "protoc-gen-go-grpc", "grpc_cpp_plugin"):
        plugin = tmp_path / "bin" / name
        plugin.write_text(PLUGIN.format(python=sys.executable))
        plugin.chmod(0o755)
    search = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", block_of_page("sh")], cwd=tmp_path, env=search, check=True, timeout=60)
    for name in ("protoc-gen-go", "protoc-gen-go-grpc"):
        assert (tmp_path / "build" / "go" / name).read_text() == "optimd/v1;optimdv1"
    assert (tmp_path / "build" / "cpp" / "optimd" / "v1" / "optimd.pb.h").exists()
    assert (tmp_path / "build" / "java" / "optimd" / "v1" / "Adam.java").exists()


def test_an_error_is_read_with_the_page_s_own_messages(tmp_path: Path) -> None:
    (tmp_path / "buf.yaml").write_text("version: v2\n")
    (tmp_path / "rpc.proto").write_text(block_of_page("proto"))
    built = subprocess.run([BUF, "build", "-o", "-#format=binpb"], cwd=tmp_path, capture_output=True, check=True)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(built.stdout).file:
        pool.Add(file)
    of = {name: pool.FindMessageTypeByName(f"google.rpc.{name}") for name in ("Status", "ErrorInfo", "RetryInfo")}
    _, sent = status_of(Refused("BACKLOG_FULL", "too many", calls_max=5))
    status = message_factory.GetMessageClass(of["Status"]).FromString(sent.SerializeToString())
    details = {detail.type_url.rpartition(".")[2]: detail.value for detail in status.details}  # type: ignore[attr-defined]
    info = message_factory.GetMessageClass(of["ErrorInfo"]).FromString(details["ErrorInfo"])
    retry = message_factory.GetMessageClass(of["RetryInfo"]).FromString(details["RetryInfo"])
    assert (info.reason, info.domain, dict(info.metadata)) == ("BACKLOG_FULL", "optimd", {"calls_max": "5"})  # type: ignore[attr-defined]
    assert retry.retry_delay.ToMilliseconds() > 0  # type: ignore[attr-defined]


def test_the_example_in_cpp_has_the_page_s_own_messages() -> None:
    assert (ROOT / "examples" / "cpp" / "rpc.proto").read_text().endswith(block_of_page("proto"))


def test_the_page_repeats_the_check_values_of_the_contract() -> None:
    values = re.findall(r"\| `((?:0x)?[0-9a-f]{8,64})` \|", PAGE)
    assert len(values) == 2
    assert all(value in CONTRACT.read_text() for value in values)
