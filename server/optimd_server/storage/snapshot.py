"""One snapshot: a folder with a safetensors file for each shard and a manifest that vouches for all of it.

In a shard's file a tensor that lies in it whole has its name and shape, `param/layer.weight` or
`adam.exp_avg/layer.weight`; of a tensor cut by a shard's border there is the run of its elements that the shard holds,
`param[4096:8192]/layer.weight`, in one dimension.

manifest.json: format, job, spec (the contract's message as JSON), layout_digest, state (see core.saved), files (name,
bytes, crc32c, start and stop of its elements), and the crc32c of all that as JSON with sorted keys and no spaces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
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
from optimdpb.specs import JobSpec, Layout
from optimdpb.v1 import optimd_pb2 as pb

from optimd_server.optimizers import plan_of

Float32s = NDArray[np.float32]

FORMAT = 3
MANIFEST = "manifest.json"
_READ_BYTES = 8 << 20


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
            raise OSError(f"{path.name}: {error}") from error
        size_bytes, checksum = _checksum(path)
        files.append(
            {"name": path.name, "bytes": size_bytes, "crc32c": checksum, "start": image.start, "stop": image.stop}
        )
        _sync(path)
    body = {
        "format": FORMAT,
        "job": snapshot.job,
        "spec": json_format.MessageToDict(job_spec_to_proto(snapshot.spec), preserving_proto_field_name=True),
        "layout_digest": snapshot.spec.layout.digest.hex(),
        "state": snapshot.state,
        "files": files,
    }
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({**body, "crc32c": crc32c(_canonical(body))}, indent=1) + "\n")
    _sync(manifest)
    _sync(folder)


def read_snapshot(folder: Path) -> Snapshot:
    """Read and verify everything. Raises SnapshotRefused, naming the file and what is wrong with it."""
    body = _read_manifest(folder / MANIFEST)
    try:
        message = json_format.ParseDict(body["spec"], pb.JobSpec())
        spec = job_spec_from_proto(message)
        digest, entries = body["layout_digest"], body["files"]
        job, state = str(body["job"]), dict(body["state"])
    except (KeyError, TypeError, ValueError, json_format.ParseError, Refused) as error:
        raise SnapshotRefused(folder / MANIFEST, f"its content is not understood: {error!r}") from error
    if digest != spec.layout.digest.hex():
        message_text = f"expected layout digest {spec.layout.digest.hex()}, got {digest}"
        raise SnapshotRefused(folder / MANIFEST, message_text)
    images = [_read_shard(folder, entry, spec) for entry in entries]
    borders = [0, *(image.stop for image in images)]
    if [image.start for image in images] != borders[:-1] or borders[-1] != spec.layout.elements:
        raise SnapshotRefused(folder / MANIFEST, f"expected shards of {spec.layout.elements} elements, got {borders}")
    return Snapshot(job, spec, state, images)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SnapshotRefused(path, "it is missing: the snapshot was not finished or was copied in part") from error
    except (OSError, ValueError) as error:
        raise SnapshotRefused(path, f"it cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise SnapshotRefused(path, "expected a JSON object")
    checksum = body.pop("crc32c", None)
    found = body.get("format")
    if found != FORMAT:
        raise SnapshotRefused(path, f"expected format {FORMAT}, got {found!r}: another version of optimd wrote it")
    if checksum != crc32c(_canonical(body)):
        raise SnapshotRefused(path, f"expected crc32c {crc32c(_canonical(body))}, got {checksum}: it was changed")
    return body


def _read_shard(folder: Path, entry: dict[str, Any], spec: JobSpec) -> ShardImage:
    path = folder / str(entry["name"])
    try:
        size_bytes, checksum = _checksum(path)
    except OSError as error:
        raise SnapshotRefused(path, f"it cannot be read: {error.strerror}") from error
    if size_bytes != entry["bytes"]:
        raise SnapshotRefused(path, f"expected {entry['bytes']} bytes, got {size_bytes}")
    if checksum != entry["crc32c"]:
        raise SnapshotRefused(path, f"expected crc32c {entry['crc32c']}, got {checksum}: it was changed")
    try:
        tensors = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise SnapshotRefused(path, f"it is no safetensors file: {error}") from error
    start, stop = int(entry["start"]), int(entry["stop"])
    image = ShardImage(start, stop, {name: np.empty(stop - start, np.float32) for name in vector_names(spec)})
    for name, view in _named_views(spec.layout, image):
        found = tensors.pop(name, None)
        if found is None or found.dtype != np.float32 or found.shape != view.shape:
            got = "none" if found is None else f"{found.dtype} {list(found.shape)}"
            raise SnapshotRefused(path, f"tensor {name!r}: expected float32 {list(view.shape)}, got {got}")
        view[...] = found
    if tensors:
        raise SnapshotRefused(path, f"tensor {sorted(tensors)[0]!r} is not of this job")
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


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _checksum(path: Path) -> tuple[int, int]:
    """Size in bytes and crc32c of a file as it is on disk."""
    checksum, size_bytes = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            checksum = crc32c(chunk, checksum)
            size_bytes += len(chunk)
    return size_bytes, checksum


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
