"""What makes a checkpoint whole: beside each worker's files a seal with their sizes and hashes, so that none is resumed from in part."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from components.artifacts import join

NAME = re.compile(r"checkpoint_\d.*")  # Ray Train's names hold the time, so that they sort by age


def seal(folder: Path, rank: int) -> None:
    """Write the sizes and hashes of all files that a worker put into its own part of a checkpoint; the last thing it does there."""
    files = {str(path.relative_to(folder)): _digest(path.open("rb")) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / _seal_name(rank)).write_text(json.dumps(files))


def flaw(uri: str, workers: int) -> str | None:
    """Return what is wrong with a checkpoint, or None when every worker's seal is there and every sealed file as it was."""
    fs, folder = fsspec.core.url_to_fs(uri)
    for rank in range(workers):
        try:
            files: dict[str, str] = json.loads(fs.cat_file(join(folder, _seal_name(rank))))
        except FileNotFoundError:
            return f"{join(uri, _seal_name(rank))} is missing"
        except ValueError:
            return f"{join(uri, _seal_name(rank))} is damaged"
        for name, digest in files.items():
            if not fs.exists(join(folder, name)):
                return f"{join(uri, name)} is missing"
            if _digest(fs.open(join(folder, name), "rb")) != digest:
                return f"{join(uri, name)} is damaged"
    return None


def newest_whole(run_uri: str, workers: int, warn: Callable[[str], None]) -> str | None:
    """Return the newest whole checkpoint below the folder of a run that was broken off, and remove everything else there.

    What else is there - older checkpoints, torn ones, the broken run's own bookkeeping - could only mislead the next attempt.
    """
    fs, folder = fsspec.core.url_to_fs(run_uri)
    if not fs.exists(folder):
        return None
    names = sorted((Path(path).name for path in fs.ls(folder, detail=False)), reverse=True)
    whole: str | None = None
    for name in filter(NAME.fullmatch, names):
        found = flaw(join(run_uri, name), workers)
        if found is None:
            whole = name
            break
        warn(f"checkpoint not used: {found}")
    for name in names:
        if name != whole:
            fs.rm(join(folder, name), recursive=True)
    return whole and join(run_uri, whole)


def _seal_name(rank: int) -> str:
    return f"seal-{rank}.json"


def _digest(file: Any) -> str:
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()
