"""One snapshot: a folder with a safetensors file for each shard and a manifest that vouches for all of it.

In a shard's file a tensor that lies in it whole has its name and shape, `param/layer.weight` or
`adam.exp_avg/layer.weight`; of a tensor cut by a shard's border there is the run of its elements that the shard holds,
`param[4096:8192]/layer.weight`, in one dimension.

manifest.json: format, job, spec (the contract's message as JSON), layout_digest, state (see core.saved; infinity and
NaN as core.plain spells them), files (name, bytes, crc32c, start and stop of its elements), and the crc32c of all that
as JSON with sorted keys and no spaces. Format 4 is the same, with a workers_min of Sync also where none was given;
format 3 besides has infinity and NaN as words that JSON has not.

Folders can be entered and files read by the server's own user alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from google.protobuf import json_format
from numpy.typing import NDArray
from optimdpb.checksum import crc32c
from optimdpb.codec import job_spec_from_proto, job_spec_to_proto
from optimdpb.errors import Refused, SnapshotRefused
from optimdpb.specs import JobSpec, Layout, Sync
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.core.plain import from_json, to_json
from optimd_server.optimizers import plan_of

Float32s = NDArray[np.float32]

FORMAT = 5
FORMATS_READ = (3, 4, 5)
FILE_MODE = 0o600
MANIFEST = "manifest.json"
_READ_BYTES = 8 << 20
_FILE_NAME = re.compile(r"shard-\d{1,4}-of-\d{1,4}\.safetensors")
# What comes of values that are not those that were written; of JSON nested too deep, too.
FOREIGN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class ShardImage:
    """Elements start to stop of a job: vectors by name ("param", "adam.exp_avg", ...), each (stop - start,) float32."""

    start: int
    stop: int
    vectors: dict[str, Float32s]


@dataclass(frozen=True)
class Snapshot:
    """A job at one version. `state` is plain values; `shards` are consecutive and cover the layout."""

    job: str
    spec: JobSpec
    state: dict[str, Any]
    shards: list[ShardImage]


def vector_names(spec: JobSpec) -> tuple[str, ...]:
    """The vectors of a job's shards: the parameters, then the slots of its rule in order."""
    rule = plan_of(spec).rule
    return "param", *(f"{rule.spec_class.__name__.lower()}.{slot}" for slot in rule.slots)


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Write into an empty folder and make it durable; the caller renames it. Raises OSError."""
    files = []
    for number, image in enumerate(snapshot.shards, 1):
        path = folder / f"shard-{number}-of-{len(snapshot.shards)}.safetensors"
        tensors = dict(_named_views(snapshot.spec.layout, image))
        try:
            safetensors.numpy.save_file(tensors, path, {"format": "np", "job": snapshot.job})
        except safetensors.SafetensorError as error:  # how the library reports a full disk
            raise _os_error(path, error) from error
        path.chmod(FILE_MODE)
        size_bytes, checksum = _checksum(path)
        files.append(
            {"name": path.name, "bytes": size_bytes, "crc32c": checksum, "start": image.start, "stop": image.stop}
        )
        sync(path)
    body = {
        "format": FORMAT,
        "job": snapshot.job,
        "spec": json_format.MessageToDict(job_spec_to_proto(snapshot.spec), preserving_proto_field_name=True),
        "layout_digest": snapshot.spec.layout.digest.hex(),
        "state": to_json(snapshot.state),
        "files": files,
    }
    manifest = folder / MANIFEST
    text = json.dumps({**body, "crc32c": crc32c(_canonical(body))}, indent=1, allow_nan=False) + "\n"
    with os.fdopen(os.open(manifest, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "w") as file:
        file.write(text)
    sync(manifest)
    sync(folder)


def read_snapshot(folder: Path) -> Snapshot:
    """Read and verify everything. Raises SnapshotRefused, naming the file and what is wrong with it."""
    body = _read_manifest(folder / MANIFEST)
    try:
        message = json_format.ParseDict(body["spec"], pb.JobSpec())
        spec = job_spec_from_proto(message)
        if body["format"] < 5:
            spec = _without_default(spec)
        digest, entries = body["layout_digest"], [_entry(entry, spec) for entry in body["files"]]
        job, state = _text(body["job"]), dict(from_json(body["state"]))
    except (*FOREIGN, json_format.ParseError, Refused) as error:
        raise SnapshotRefused(folder / MANIFEST, f"its content is not understood: {error!r}") from error
    if digest != spec.layout.digest.hex():
        message_text = f"expected layout digest {spec.layout.digest.hex()}, got {digest}"
        raise SnapshotRefused(folder / MANIFEST, message_text)
    borders = [0, *(entry.stop for entry in entries)]
    if [entry.start for entry in entries] != borders[:-1] or borders[-1] != spec.layout.elements:
        raise SnapshotRefused(folder / MANIFEST, f"expected shards of {spec.layout.elements} elements, got {borders}")
    return Snapshot(job, spec, state, [_read_shard(folder, entry, spec) for entry in entries])


def _without_default(spec: JobSpec) -> JobSpec:
    """A workers_min that is the default was most likely not given."""
    model = spec.consistency
    if not isinstance(model, Sync) or model.workers_min != (model.quorum or model.workers):
        return spec
    return replace(spec, consistency=replace(model, workers_min=None))


def name_in(folder: Path) -> str:
    """The job's name as the manifest has it, damaged or not; "" where none can be read."""
    try:
        return _text(json.loads((folder / MANIFEST).read_bytes())["job"])
    except (OSError, *FOREIGN):
        return ""


@dataclass(frozen=True)
class _File:
    """One entry of a manifest's files."""

    name: str
    size_bytes: int
    checksum: int
    start: int
    stop: int


def _entry(entry: Any, spec: JobSpec) -> _File:
    """Raises KeyError, TypeError, ValueError for what no write_snapshot() wrote."""
    name = _text(entry["name"])
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"expected a file name like shard-1-of-1.safetensors, got {name[:100]!r}")
    start = _integer(entry["start"], 0, spec.layout.elements)
    stop = _integer(entry["stop"], start, spec.layout.elements)
    size_bytes = _integer(entry["bytes"], (stop - start) * 4 * len(vector_names(spec)), 1 << 62)
    return _File(name, size_bytes, _integer(entry["crc32c"], 0, (1 << 32) - 1), start, stop)


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected an integer from {low} to {high}, got {str(value)[:100]}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SnapshotRefused(path, "it is missing: the snapshot was not finished or was copied in part") from error
    except (OSError, *FOREIGN) as error:
        raise SnapshotRefused(path, f"it cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise SnapshotRefused(path, "expected a JSON object")
    checksum = body.pop("crc32c", None)
    found = body.get("format")
    if type(found) is not int or found not in FORMATS_READ:
        known = f"{FORMATS_READ[0]} to {FORMATS_READ[-1]}"
        raise SnapshotRefused(path, f"expected format {known}, got {found!r}: another version of optimd wrote it")
    try:
        expected = crc32c(_canonical(body, allow_nan=found < 4))
    except FOREIGN as error:
        raise SnapshotRefused(path, f"it is no JSON: {error}") from error
    if checksum != expected:
        raise SnapshotRefused(path, f"expected crc32c {expected}, got {checksum}: it was changed")
    return body


def _read_shard(folder: Path, entry: _File, spec: JobSpec) -> ShardImage:
    path = folder / entry.name
    try:
        size_bytes, checksum = _checksum(path)
    except OSError as error:
        raise SnapshotRefused(path, f"it cannot be read: {error.strerror}") from error
    if size_bytes != entry.size_bytes:
        raise SnapshotRefused(path, f"expected {entry.size_bytes} bytes, got {size_bytes}")
    if checksum != entry.checksum:
        raise SnapshotRefused(path, f"expected crc32c {entry.checksum}, got {checksum}: it was changed")
    elements = entry.stop - entry.start
    image = ShardImage(entry.start, entry.stop, {name: np.empty(elements, np.float32) for name in vector_names(spec)})
    try:
        with safetensors.safe_open(path, "np") as tensors:  # one at a time: the file is as large as the shard
            unknown = set(tensors.keys())
            for name, view in _named_views(spec.layout, image):
                found = tensors.get_tensor(name) if name in unknown else None
                if found is None or found.dtype != np.float32 or found.shape != view.shape:
                    got = "none" if found is None else f"{found.dtype} {list(found.shape)}"
                    raise SnapshotRefused(path, f"tensor {name!r}: expected float32 {list(view.shape)}, got {got}")
                view[...] = found
                unknown.discard(name)
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise SnapshotRefused(path, f"it is no safetensors file: {error}") from error
    if unknown:
        raise SnapshotRefused(path, f"tensor {sorted(unknown)[0]!r} is not of this job")
    return image


def _named_views(layout: Layout, image: ShardImage) -> Iterator[tuple[str, Float32s]]:
    """Every vector of an image cut into the tensors of the layout, as views of it, by their names in the file.

    A tensor without elements is in the shard that has the element behind it, or in the last.
    """
    for tensor, first, last in zip(layout.tensors, layout.offsets, layout.offsets[1:], strict=False):
        start, stop = max(first, image.start), min(last, image.stop)
        at_end = first < image.stop or image.stop == layout.elements
        if not (start < stop if first < last else image.start <= first and at_end):
            continue
        for name, vector in image.vectors.items():
            view = vector[start - image.start : stop - image.start]
            if (start, stop) == (first, last):
                yield f"{name}/{tensor.name}", view.reshape(tensor.shape)
            else:
                yield f"{name}[{start - first}:{stop - first}]/{tensor.name}", view


def _canonical(body: dict[str, Any], *, allow_nan: bool = False) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan).encode()


def _checksum(path: Path) -> tuple[int, int]:
    """Size in bytes and crc32c of a file as it is on disk."""
    checksum, size_bytes = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            checksum = crc32c(chunk, checksum)
            size_bytes += len(chunk)
    return size_bytes, checksum


def _os_error(path: Path, error: Exception) -> OSError:
    """As the system would have said it: with its number, where the text has one."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1])), str(path)) if found else OSError(f"{path.name}: {error}")


def sync(path: Path) -> None:
    """Make what was written to a file, or the entries of a folder, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
