"""What a snapshot holds, how it is named, and that nothing damaged, foreign or newer is ever loaded."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from optimd_server.storage import ShardImage, Snapshot, read_snapshot, vector_names, write_snapshot
from optimdpb.checksum import crc32c
from optimdpb.errors import SnapshotRefused
from optimdpb.specs import Adam, ClipTensorNorm, Cosine, Group, JobSpec, Layout, Sync, Tensor

LAYOUT = Layout(
    (
        Tensor("layer/w", (3, 4)),
        Tensor("none", (0, 2)),
        Tensor("scalar", ()),
        Tensor("running", (5,), "buffer"),
        Tensor("end", (0,)),
    )
)
SPEC = JobSpec(
    LAYOUT,
    Adam(Cosine(0.1, 0.0, 100), beta1=1 / 3),
    Sync(2),
    clip=ClipTensorNorm(0.7),
    groups=(Group("layer/*", lr_multiplier=0.1, beta2=0.5),),
)
STATE = {"step": 17, "lineage": "ab", "memories": [[0.1, 1e-300]]}


def snapshot_of(cuts: tuple[int, ...] = (), spec: JobSpec = SPEC, seed: int = 0) -> Snapshot:
    """A job of random vectors, cut into shards."""
    rng = np.random.default_rng(seed)
    vectors = {name: rng.standard_normal(spec.layout.elements).astype(np.float32) for name in vector_names(spec)}
    borders = [0, *cuts, spec.layout.elements]
    images = [
        ShardImage(start, stop, {name: vector[start:stop] for name, vector in vectors.items()})
        for start, stop in itertools.pairwise(borders)
    ]
    return Snapshot("digits", spec, STATE, images)


def whole(snapshot: Snapshot, name: str) -> bytes:
    return b"".join(image.vectors[name].tobytes() for image in snapshot.shards)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of a snapshot of two shards, the border in the middle of a tensor."""
    write_snapshot(tmp_path, snapshot_of((7,)))
    return tmp_path


@pytest.mark.parametrize("cuts", [(), (7,), (12, 13), (0, 0, 18, 18)])
def test_what_is_read_is_what_was_written(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    written = snapshot_of(cuts)
    write_snapshot(tmp_path, written)
    read = read_snapshot(tmp_path)
    assert (read.job, read.spec, read.state) == ("digits", SPEC, STATE)
    for name in ("param", "adam.exp_avg", "adam.exp_avg_sq"):
        assert whole(read, name) == whole(written, name)


def test_it_opens_in_plain_safetensors_in_one_line(tmp_path: Path) -> None:
    written = snapshot_of()
    write_snapshot(tmp_path, written)
    tensors = safetensors.numpy.load_file(tmp_path / "shard-1-of-1.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items() if name.startswith("param/")} == {
        "param/layer/w": (3, 4),
        "param/none": (0, 2),
        "param/scalar": (),
        "param/running": (5,),
        "param/end": (0,),
    }
    assert set(tensors) == {
        f"{vector}/{tensor.name}"
        for vector in ("param", "adam.exp_avg", "adam.exp_avg_sq")
        for tensor in LAYOUT.tensors
    }
    assert tensors["adam.exp_avg/layer/w"].ravel().tobytes() == written.shards[0].vectors["adam.exp_avg"][:12].tobytes()


def test_a_tensor_cut_by_a_border_says_which_run_it_is(saved: Path) -> None:
    first, second = (safetensors.numpy.load_file(saved / f"shard-{n}-of-2.safetensors") for n in (1, 2))
    assert first["param[0:7]/layer/w"].shape == (7,)
    assert second["param[7:12]/layer/w"].shape == (5,)
    assert "param/end" not in first
    assert second["param/end"].shape == (0,)


OTHER_LAYOUT = dataclasses.replace(SPEC, layout=Layout((Tensor("layer/w", (18,)),)))
SHARD = "shard-2-of-2.safetensors"
CONSTANT = {"lr": {"constant": {"lr": 0.1}}}


def edited(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the manifest and give it the checksum that fits."""

    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        body = json.loads(path.read_text())
        del body["crc32c"]
        edit(body)
        body["crc32c"] = crc32c(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
        path.write_text(json.dumps(body))

    return change


def truncated(name: str, size_bytes: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size_bytes])


def replaced(of: Snapshot) -> Callable[[Path], None]:
    """Put the file of another snapshot in the place of this one's."""

    def replace(folder: Path) -> None:
        other = folder / "other"
        other.mkdir()
        write_snapshot(other, of)
        shutil.copy(other / SHARD, folder / SHARD)

    return replace


def with_rule(**rule: dict) -> Callable[[Path], None]:
    return edited(lambda body: body["spec"].update(optimizer=rule, groups=[]))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard truncated": (truncated(SHARD, 100), "expected .* bytes, got 100"),
    "shard empty": (truncated(SHARD, 0), "expected .* bytes, got 0"),
    "shard missing": (lambda folder: (folder / SHARD).unlink(), "cannot be read"),
    "shard of another moment": (replaced(snapshot_of((7,), seed=1)), "crc32c"),
    "shard of another layout": (replaced(snapshot_of((7,), OTHER_LAYOUT)), "bytes, got|crc32c"),
    "shard is a folder": (lambda folder: [(folder / SHARD).unlink(), (folder / SHARD).mkdir()], "cannot be read"),
    "manifest missing": (lambda folder: (folder / "manifest.json").unlink(), "was not finished or was copied in part"),
    "manifest truncated": (truncated("manifest.json", 200), "cannot be read"),
    "manifest empty": (truncated("manifest.json", 0), "cannot be read"),
    "manifest no object": (lambda folder: (folder / "manifest.json").write_text("[]"), "expected a JSON object"),
    "newer format": (edited(lambda body: body.update(format=6)), "expected format 3 to 5, got 6"),
    "format of another kind": (edited(lambda body: body.update(format=4.0)), "expected format 3 to 5, got 4.0"),
    "no format": (edited(lambda body: body.pop("format")), "expected format 3 to 5, got None"),
    "no spec": (edited(lambda body: body.pop("spec")), "not understood"),
    "spec out of range": (with_rule(adam={**CONSTANT, "beta2": 2}), "not understood"),
    "unknown rule": (with_rule(madam=CONSTANT), "not understood"),
    "another rule, less slots": (with_rule(sgd=CONSTANT), "is not of this job"),
    "another rule, more slots": (with_rule(amsgrad=CONSTANT), "expected float32"),
    "another layout": (
        edited(lambda body: body["spec"]["layout"]["tensors"][0].update(shape=[4, 3])),
        "expected layout digest",
    ),
    "an entry without a name": (edited(lambda body: body["files"][0].pop("name")), "not understood: KeyError"),
    "an entry that leaves the folder": (
        edited(lambda body: body["files"][0].update(name="../shard-1-of-2.safetensors")),
        "expected a file name like",
    ),
    "an entry that is none": (edited(lambda body: body.update(files=[7])), "not understood: TypeError"),
    "files that are none": (edited(lambda body: body.update(files=None)), "not understood: TypeError"),
    "stop before start": (edited(lambda body: body["files"][0].update(stop=-1)), "expected an integer from 0 to 18"),
    "stop beyond the layout": (
        edited(lambda body: body["files"][1].update(stop=1 << 40)),
        "expected an integer from 7",
    ),
    "start that is no integer": (edited(lambda body: body["files"][0].update(start=False)), "got False"),
    "bytes that are text": (edited(lambda body: body["files"][0].update(bytes="300")), "expected an integer"),
    "more elements than bytes": (edited(lambda body: body["files"][0].update(bytes=83)), "expected an integer from 84"),
    "a checksum too large": (edited(lambda body: body["files"][0].update(crc32c=1 << 32)), "expected an integer"),
    "a job that is no text": (edited(lambda body: body.update(job=7)), "expected text, got int"),
    "a state that is none": (edited(lambda body: body.update(state=[1])), "not understood"),
    "a number that is none": (edited(lambda body: body["state"].update(step={"$float": "much"})), "not understood"),
    "nested too deep": (
        lambda folder: (folder / "manifest.json").write_text("[" * 100_000 + "]" * 100_000),
        "cannot be read",
    ),
    "words that are no JSON": (edited(lambda body: body["state"].update(step=float("nan"))), "it is no JSON"),
    "a shard less": (edited(lambda body: body["files"].pop()), "expected shards of 18 elements"),
    "shards in another order": (edited(lambda body: body["files"].reverse()), "expected shards of 18 elements"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(saved: Path, damage: str) -> None:
    do, message = DAMAGE[damage]
    do(saved)
    with pytest.raises(SnapshotRefused, match=message) as refused:
        read_snapshot(saved)
    assert str(saved) in refused.value.metadata["path"]


def test_any_flipped_bit_is_refused(saved: Path) -> None:
    """Every byte of the manifest that carries meaning, and every 11th of the shards."""
    for path in sorted(saved.iterdir()):
        original = path.read_bytes()
        for place in range(0, len(original), 1 if path.suffix == ".json" else 11):
            flipped = bytearray(original)
            flipped[place] ^= 1 << (place % 8)
            if path.suffix == ".json" and _same_json(original, bytes(flipped)):
                continue  # white space
            path.write_bytes(flipped)
            with pytest.raises(SnapshotRefused):
                read_snapshot(saved)
        path.write_bytes(original)
    read_snapshot(saved)


def _same_json(left: bytes, right: bytes) -> bool:
    try:
        return bool(json.loads(left) == json.loads(right))
    except ValueError:
        return False


def test_the_manifest_is_json_and_every_number_comes_back(tmp_path: Path) -> None:
    numbers = [math.inf, -math.inf, math.nan, 0.1, 5e-324, 1 << 60, None, "inf"]
    write_snapshot(tmp_path, dataclasses.replace(snapshot_of(), state={"step": 1, "numbers": numbers}))

    def no_constant(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    json.loads((tmp_path / "manifest.json").read_text(), parse_constant=no_constant)
    assert repr(read_snapshot(tmp_path).state["numbers"]) == repr(numbers)


def test_the_format_of_before_is_read(tmp_path: Path) -> None:
    """It had infinity as a word that JSON has not."""
    write_snapshot(tmp_path, snapshot_of())

    def older(body: dict) -> None:
        body.update(format=3)
        body["state"].update(best=math.inf)

    edited(older)(tmp_path)
    assert "Infinity" in (tmp_path / "manifest.json").read_text()
    assert read_snapshot(tmp_path).state == {**STATE, "best": math.inf}
