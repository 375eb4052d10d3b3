"""What the raw data is, without reading it: enough to notice that it changed."""

from __future__ import annotations

from pathlib import Path

import fsspec

from components.types import Tables


def folder_digest(path: str) -> list[tuple[str, int, int]]:
    """Return name, size in bytes and time of change (ns) of the files of a local folder; of anything else, a hub id, nothing."""
    files = sorted(file for file in Path(path).glob("*") if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def digest(tables: Tables) -> list[tuple[str, int, str]]:
    """Return name, size in bytes and time of change (or the store's own mark) of every raw file; generated data has none."""
    facts: list[tuple[str, int, str]] = []
    for source in (*tables.interactions, *tables.users, *tables.items):
        fs, path = fsspec.core.url_to_fs(source.path)
        if source.path and fs.exists(path):
            info = fs.info(path)
            facts.append((path.rsplit("/", 1)[-1], int(info["size"]), str(info.get("ETag") or info.get("mtime"))))
    return facts
