"""One folder is one artifact: data files and a manifest, written last, that says what made it and what is in it.

An artifact is written aside. On a local disk it is then brought to the disk and renamed, so that it is there whole or not at
all. An object store has no rename: there it is copied, and the manifest, copied last, is the commit. A folder without a
manifest is no artifact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
from pydantic import TypeAdapter

from components import storage
from components.errors import ArtifactError
from components.inventory import inventory, join, wrong_content, wrong_size

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


def read_manifest(uri: str) -> Manifest | None:
    """Return the manifest of the artifact at `uri`, or None where there is no whole artifact."""
    try:
        return require(uri)
    except ArtifactError:
        return None


def require(uri: str) -> Manifest:
    """Return the manifest of the artifact at `uri`; raise ArtifactError naming what is missing or has another size."""
    fs, folder = storage.filesystem(uri)
    try:
        manifest = Manifest(**json.loads(fs.cat_file(join(folder, MANIFEST))))
    except FileNotFoundError:
        raise ArtifactError(f"expected a finished artifact (with {MANIFEST}, all files whole) at {uri}; found none") from None
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{join(uri, MANIFEST)} is damaged: expected a manifest, found {error}") from None
    if found := wrong_size(uri, manifest.files):
        raise ArtifactError(found)
    return manifest


def verify(uri: str) -> None:
    """Compare every file of the artifact with its recorded sha256; raise ArtifactError naming the first that differs."""
    if found := wrong_content(uri, require(uri).files):
        raise ArtifactError(found)


@contextlib.contextmanager
def create(
    uri: str, fingerprint: str, config: Any, before_it_appears: Callable[[], None] = lambda: None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write an artifact: yields the folder to write into, empty, and a dict for facts; nothing appears at `uri` on failure.

    What a broken attempt wrote stays beside `uri`, to be looked at, until the next attempt. `before_it_appears` may raise.
    """
    fs, path = storage.filesystem(uri)
    aside = _empty_folder(fs, path)
    folder = aside if storage.is_local(fs) else fs.unstrip_protocol(aside)
    facts: dict[str, Any] = {}
    started_s = time.monotonic()
    yield folder, facts
    manifest = Manifest(fingerprint, as_plain(config), as_plain(facts), time.monotonic() - started_s, inventory(folder))
    fs.pipe_file(join(aside, MANIFEST), json.dumps(dataclasses.asdict(manifest), indent=1).encode())
    before_it_appears()
    if storage.is_local(fs):
        _replace(Path(path), Path(aside))
    else:
        _publish(fs, path, aside, [*manifest.files])


def publish_finished(uri: str, fingerprint: str, before_it_appears: Callable[[], None] = lambda: None) -> bool:
    """Publish an artifact of this fingerprint whose run was broken off when all of it was written; tell whether there was one."""
    fs, path = storage.filesystem(uri)
    for aside in _attempts(fs, path):
        folder = aside if storage.is_local(fs) else fs.unstrip_protocol(aside)
        manifest = read_manifest(folder)
        if manifest is None or manifest.fingerprint != fingerprint:
            continue
        if {*storage.listing(fs, aside)} != {*manifest.files, MANIFEST} or wrong_content(folder, manifest.files):
            continue  # damaged, or a worker that outlived its run still writes
        before_it_appears()
        if storage.is_local(fs):
            _replace(Path(path), Path(aside))
        else:
            _publish(fs, path, aside, [*manifest.files])
        return True
    return False


def read_json(uri: str) -> Any:
    """Read one JSON file of an artifact."""
    with storage.open_file(uri, "r", encoding="utf-8") as file:
        return json.load(file)


def write_json(uri: str, value: Any) -> None:
    """Write one JSON file, readable by people."""
    with storage.open_file(uri, "w", encoding="utf-8") as file:
        file.write(json.dumps(as_plain(value), indent=1, ensure_ascii=False) + "\n")


def _empty_folder(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """Return the folder that an artifact is written into; remove what earlier attempts left."""
    for left in _attempts(fs, path):
        with contextlib.suppress(OSError):  # where a worker of a broken run still writes
            fs.rm(left, recursive=True)
    # A name of its own: a worker that outlived its broken run can't write among the files of this one.
    aside = f"{path}.partial-{uuid.uuid4().hex[:8]}"
    if storage.is_local(fs):
        fs.makedirs(aside)
    return aside


def _attempts(fs: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Return the folders that earlier attempts at an artifact left beside it."""
    parent, name = path.rsplit("/", 1)
    found = fs.ls(parent, detail=False) if fs.isdir(parent) else []
    return [left for left in found if left.rsplit("/", 1)[-1].startswith(f"{name}.partial-")]


def _replace(path: Path, new: Path) -> None:
    """Put a folder in the place of an earlier one, once all of it is on the disk."""
    for written in [*new.rglob("*"), new]:
        _sync(written)
    old = new.with_name(f"{new.name}-old")
    if path.exists():
        path.rename(old)
    new.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(fs: fsspec.AbstractFileSystem, path: str, new: str, names: list[str]) -> None:
    """Copy a folder into the place of an earlier one. Its manifest comes last, as the earlier one's goes first."""
    if fs.exists(join(path, MANIFEST)):
        fs.rm(join(path, MANIFEST))
    if fs.exists(path):
        fs.rm(path, recursive=True)
    for some in (names, [MANIFEST]):
        fs.copy([join(new, name) for name in some], [join(path, name) for name in some])
    fs.rm(new, recursive=True)
