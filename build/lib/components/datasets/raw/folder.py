"""Which files a folder holds, and what to say when they are not there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import fsspec

from components import artifacts
from components.errors import DataError


def missing_files(folder: str, names: Sequence[str]) -> list[str]:
    """Return the names that are no file of the folder (any fsspec URI)."""
    fs, path = fsspec.core.url_to_fs(folder)
    return [name for name in names if not fs.exists(artifacts.join(path, name))]


def require_files(folder: str, names: Sequence[str], hint: str) -> None:
    """Raise one DataError that names every file that is expected and not there; `hint` says where they come from."""
    missing = missing_files(folder, names)
    if missing:
        raise DataError(f"expected the files {', '.join(names)} in the folder {folder}; missing: {', '.join(missing)}. {hint}")


def list_files(uri: str) -> list[str]:
    """Return the URIs of a folder's files in the order of their names, of a file its own, of nothing none."""
    fs, path = fsspec.core.url_to_fs(uri)
    if fs.isfile(path):
        return [uri]
    if not fs.isdir(path):
        return []
    names = sorted(entry["name"].rsplit("/", 1)[-1] for entry in fs.ls(path, detail=True) if entry["type"] == "file")
    return [artifacts.join(uri, name) for name in names if not name.startswith((".", "_"))]


def require_columns(path: str, expected: Sequence[str], found: Sequence[str]) -> None:
    """Raise DataError where a column is not among those found, with the nearest name that is."""
    for name in expected:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{path}: expected a column {name!r}, found {', '.join(map(repr, found)) or 'none'}{meant}")
