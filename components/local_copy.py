"""A folder of any store on this machine's disk, for libraries that read local files alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import fsspec

from components import storage
from components.errors import ArtifactError
from components.file_lock import file_lock

KEPT_S = 7 * 86_400  # copies that nobody asked for in so long are removed


def local_copy(uri: str) -> str:
    """Return a local folder with the files below `uri`: that folder itself, or this machine's copy of what is there now.

    The processes of a machine share a copy; it appears whole or not at all, and another content has another copy. It lies in
    the folder for temporary files. Raises ArtifactError where there is nothing to copy.
    """
    fs, path = storage.filesystem(uri)
    if storage.is_local(fs):
        return path
    found = storage.listing(fs, path)
    if not found:
        raise ArtifactError(f"expected files below {uri}, found none")
    copies = _copies()
    copy = copies / hashlib.sha256(json.dumps([fs.unstrip_protocol(path), found]).encode()).hexdigest()[:24]
    with file_lock(copy.with_suffix(".lock")):
        if not copy.exists():
            _remove_unused(copies)
            _fetch(fs, path, found, copy)
        os.utime(copy)  # asked for now
    return str(copy)


def remember(name: str, folder: str) -> None:
    """Let `remembered` find a local folder by a name for its content, whose store may be away then."""
    link = _link(name)
    aside = link.with_suffix(f".{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(folder)
    aside.replace(link)


def remembered(name: str) -> str | None:
    """Return the folder that was remembered by this name on this machine; None where there is none any more."""
    link = _link(name)
    return os.path.realpath(link) if link.exists() else None


def _link(name: str) -> Path:
    return _copies() / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.link"


def _copies() -> Path:
    folder = Path(tempfile.gettempdir()) / f"tandem-copies-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ArtifactError(f"expected {folder} to be a folder of this user, it is another's")
    return folder


def _fetch(fs: fsspec.AbstractFileSystem, path: str, found: dict[str, tuple[int, str]], copy: Path) -> None:
    aside = copy.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    for name in found:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
    fs.get([f"{path}/{name}" for name in found], [str(aside / name) for name in found])
    if storage.listing(fs, path) != found or any((aside / name).stat().st_size != size for name, (size, _) in found.items()):
        shutil.rmtree(aside)
        raise ArtifactError(f"{fs.unstrip_protocol(path)} changed while it was copied; expected a finished folder")
    aside.rename(copy)


def _remove_unused(copies: Path) -> None:
    for entry in copies.iterdir():
        if entry.is_dir() and time.time() - entry.stat().st_mtime > KEPT_S:
            shutil.rmtree(entry, ignore_errors=True)
