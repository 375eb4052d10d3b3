"""What is in a folder: the size and the sha256 of every file, and which file is not as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec

from components import storage

READERS = 4  # files that are hashed at the same time
Files = Mapping[str, Mapping[str, Any]]  # path in a folder -> {"bytes", "sha256"}


def join(uri: str, *names: str) -> str:
    """Join a folder's URI and names below it."""
    return "/".join([uri.rstrip("/"), *names])


def inventory(uri: str) -> dict[str, dict[str, Any]]:
    """Return the size and sha256 of every file below a folder."""
    fs, folder = storage.filesystem(uri)
    sizes = {name: size for name, (size, _) in storage.listing(fs, folder).items()}
    return {name: {"bytes": sizes[name], "sha256": digest} for name, digest in _sha256(fs, folder, list(sizes)).items()}


def wrong_size(uri: str, files: Files) -> str | None:
    """Name the first of these files that is missing below the folder or has another size, None where there is none."""
    fs, folder = storage.filesystem(uri)
    found = storage.listing(fs, folder)
    for name, entry in files.items():
        if name not in found:
            return f"{join(uri, name)} is missing: expected {entry['bytes']} bytes"
        if found[name][0] != entry["bytes"]:
            return f"{join(uri, name)} is damaged: expected {entry['bytes']} bytes, found {found[name][0]}"
    return None


def wrong_content(uri: str, files: Files) -> str | None:
    """Name the first of these files whose sha256 differs, None where there is none."""
    fs, folder = storage.filesystem(uri)
    for name, found in _sha256(fs, folder, list(files)).items():
        if found != files[name]["sha256"]:
            return f"{join(uri, name)} is damaged: expected sha256 {files[name]['sha256'][:12]}..., found {found[:12]}..."
    return None


def _sha256(fs: fsspec.AbstractFileSystem, folder: str, names: list[str]) -> dict[str, str]:
    def digest(name: str) -> str:
        found = hashlib.sha256()
        with fs.open(join(folder, name), "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)  # pyright: ignore[reportArgumentType]
        return found.hexdigest()

    with ThreadPoolExecutor(READERS) as readers:
        return dict(zip(names, readers.map(digest, names), strict=True))
