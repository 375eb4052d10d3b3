"""A published archive, fetched only when the user asked for it, checked, and unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec

from components import artifacts
from components.errors import DataError

TIMEOUT_S = 60.0
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A zip file at a public address, known by its size and checksum."""

    url: str
    bytes: int
    md5: str


def fetch(archive: Archive, members: Sequence[str], folder: str, timeout_s: float = TIMEOUT_S) -> None:
    """Download the archive and put its `members` (paths inside) into `folder`, files already there kept.

    Each file appears whole, and the last member last. Raises DataError, with nothing unpacked, where the archive can't be
    had or is not the one expected.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "archive.zip"
        _download(archive, path, timeout_s)
        try:
            with zipfile.ZipFile(path) as opened:
                contents = {member.rsplit("/", 1)[-1]: opened.read(member) for member in members}
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{archive.url}: expected a zip file with {', '.join(members)}: {error}") from error
    _place(contents, folder)


def _download(archive: Archive, path: Path, timeout_s: float) -> None:
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(archive.url, timeout=timeout_s) as response, path.open("wb") as file:
            while size <= archive.bytes and (block := response.read(BLOCK_BYTES)):
                file.write(block)
                digest.update(block)
                size += len(block)
    except (OSError, urllib.error.URLError) as error:
        raise DataError(f"{archive.url} can't be downloaded: {error}") from error
    if size != archive.bytes:
        more = "more" if size > archive.bytes else f"{size:,}"
        raise DataError(f"{archive.url}: expected {archive.bytes:,} bytes, got {more}")
    if digest.hexdigest() != archive.md5:
        raise DataError(f"{archive.url}: expected md5 {archive.md5}, got {digest.hexdigest()}")


def _place(contents: dict[str, bytes], folder: str) -> None:
    fs, root = fsspec.core.url_to_fs(folder)
    fs.makedirs(root, exist_ok=True)
    for name, content in contents.items():
        target = artifacts.join(root, name)
        if not fs.exists(target):
            fs.pipe_file(f"{target}.partial", content)
            fs.mv(f"{target}.partial", target)
