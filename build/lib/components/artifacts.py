"""One folder is one artifact: data files and a manifest, written last, that says what made it and what is in it.

On a local disk an artifact is written aside and renamed, so that it is there whole or not at all. An object store has no
rename: there the manifest, written last, is the commit. A folder without a manifest is no artifact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from pydantic import TypeAdapter

from components.errors import ArtifactError

MANIFEST = "_manifest.json"  # readers of Parquet folders skip names that begin with "_"
T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself."""

    fingerprint: str  # hash of everything the content depends on
    config: dict[str, Any]  # the part of the configuration that made it
    facts: dict[str, Any]  # counts and figures that later stages and people read
    seconds: float  # how long the stage took
    files: dict[str, dict[str, Any]]  # path in the folder -> {"bytes", "sha256"}


def fingerprint(*parts: Any) -> str:
    """Hash configurations (dataclasses, plain values) and other fingerprints into one, 16 hex digits long.

    Fields that a class names in `OPERATIONAL` decide how its work is done, not what comes out, and are left out.
    """
    return hashlib.sha256(json.dumps([as_plain(part, operational=False) for part in parts], sort_keys=True).encode()).hexdigest()[:16]


def as_plain(value: Any, operational: bool = True) -> Any:
    """Turn (nested) dataclasses, tuples, numpy's numbers and paths into what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = () if operational else getattr(value, "OPERATIONAL", ())
        names = [field.name for field in dataclasses.fields(value) if field.name not in left_out]
        return {"type": f"{type(value).__qualname__}", **{name: as_plain(getattr(value, name), operational) for name in names}}
    if isinstance(value, dict):
        return {str(key): as_plain(item, operational) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item, operational) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def from_plain(kind: type[T], plain: Any) -> T:
    """Rebuild a (nested) dataclass from what `as_plain` made of it; its own checks run again."""
    return TypeAdapter(kind).validate_python(plain)


def join(uri: str, *names: str) -> str:
    """Join a folder's URI and names below it."""
    return "/".join([uri.rstrip("/"), *names])


def read_manifest(uri: str) -> Manifest | None:
    """Return the manifest of the artifact at `uri`, or None where there is no whole artifact."""
    fs, path = fsspec.core.url_to_fs(join(uri, MANIFEST))
    if not fs.exists(path):
        return None
    try:
        manifest = Manifest(**json.loads(fs.cat_file(path)))
    except (ValueError, TypeError):
        return None
    folder = path.removesuffix("/" + MANIFEST)
    sizes = _sizes(fs, folder)
    whole = all(sizes.get(name) == entry["bytes"] for name, entry in manifest.files.items())
    return manifest if whole else None


def require(uri: str) -> Manifest:
    """Return the manifest of the artifact at `uri`; raise ArtifactError where there is none."""
    manifest = read_manifest(uri)
    if manifest is None:
        raise ArtifactError(f"expected a finished artifact (with {MANIFEST}, all files whole) at {uri}; found none")
    return manifest


def verify(uri: str) -> None:
    """Compare every file of the artifact with its recorded sha256; raise ArtifactError naming the first that differs."""
    fs, folder = fsspec.core.url_to_fs(uri)
    for name, entry in require(uri).files.items():
        found = _sha256(fs, join(folder, name))
        if found != entry["sha256"]:
            raise ArtifactError(f"{join(uri, name)} is damaged: expected sha256 {entry['sha256'][:12]}..., got {found[:12]}...")


@contextlib.contextmanager
def create(uri: str, fingerprint: str, config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write an artifact: yields the folder to write into, empty, and a dict for facts; nothing appears at `uri` on failure.

    What a broken attempt wrote stays beside `uri` on a local disk, to be looked at, until the next attempt.
    """
    fs, path = fsspec.core.url_to_fs(uri)
    aside = _empty_folder(fs, path)
    facts: dict[str, Any] = {}
    started_s = time.monotonic()
    yield (aside if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(aside)), facts
    files = {name: {"bytes": size, "sha256": _sha256(fs, join(aside, name))} for name, size in _sizes(fs, aside).items()}
    manifest = Manifest(fingerprint, as_plain(config), as_plain(facts), time.monotonic() - started_s, files)
    fs.pipe_file(join(aside, MANIFEST), json.dumps(dataclasses.asdict(manifest), indent=1).encode())
    if aside != path:
        _replace(Path(path), Path(aside))


def read_json(uri: str) -> Any:
    """Read one JSON file of an artifact."""
    with fsspec.open(uri, "r", encoding="utf-8") as file:
        return json.load(file)  # pyright: ignore[reportArgumentType]


def write_json(uri: str, value: Any) -> None:
    """Write one JSON file, readable by people."""
    with fsspec.open(uri, "w", encoding="utf-8") as file:
        file.write(json.dumps(as_plain(value), indent=1, ensure_ascii=False) + "\n")  # pyright: ignore[reportAttributeAccessIssue]


def _empty_folder(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """Return the folder that an artifact is written into; remove what earlier attempts left."""
    if not isinstance(fs, LocalFileSystem):
        if fs.exists(path):
            fs.rm(path, recursive=True)
        return path
    for left in Path(path).parent.glob(f"{Path(path).name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    # A name of its own: a worker that outlived its broken run can't write among the files of this one.
    aside = f"{path}.partial-{uuid.uuid4().hex[:8]}"
    fs.makedirs(aside)
    return aside


def _replace(path: Path, new: Path) -> None:
    """Put a folder in the place of an earlier one."""
    old = new.with_name(f"{new.name}-old")
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _sizes(fs: fsspec.AbstractFileSystem, folder: str) -> dict[str, int]:
    root = folder.rstrip("/") + "/"
    found: dict[str, dict[str, Any]] = fs.find(folder, detail=True)  # pyright: ignore[reportAssignmentType]
    return {name.removeprefix(root): int(info["size"]) for name, info in sorted(found.items()) if name != root + MANIFEST}


def _sha256(fs: fsspec.AbstractFileSystem, path: str) -> str:
    digest = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)  # pyright: ignore[reportArgumentType]
    return digest.hexdigest()
