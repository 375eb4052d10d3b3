"""What the raw data is, without reading it: enough to notice that it changed."""

from __future__ import annotations

from components import storage
from components.types import Tables


def folder_digest(path: str) -> list[tuple[str, int, str]]:
    """Return name, size in bytes and mark of the files of a folder; of anything else, a hub id, nothing."""
    fs, folder = storage.filesystem(path)
    entries = fs.ls(folder, detail=True) if fs.isdir(folder) else []
    return sorted(
        (entry["name"].rsplit("/", 1)[-1], int(entry["size"]), storage.mark(entry)) for entry in entries if entry["type"] == "file"
    )


def digest(tables: Tables) -> list[tuple[str, int, str]]:
    """Return name, size in bytes and mark of every raw file; generated data has none."""
    facts: list[tuple[str, int, str]] = []
    for source in (*tables.interactions, *tables.users, *tables.items):
        fs, path = storage.filesystem(source.path)
        if source.path and fs.exists(path):
            info = fs.info(path)
            facts.append((path.rsplit("/", 1)[-1], int(info["size"]), storage.mark(info)))
    return facts
