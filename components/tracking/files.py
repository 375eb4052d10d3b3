"""Files of any storage, where MLflow needs them on a local disk."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from components import storage


@contextlib.contextmanager
def local(uri: str) -> Iterator[Path]:
    """Give the file or folder at `uri` as a local path; a remote one is fetched for as long as it is used.

    Raises FileNotFoundError where there is nothing.
    """
    fs, path = storage.filesystem(uri)
    if not fs.exists(path):
        raise FileNotFoundError(f"expected a file or folder at {uri}; found none")
    if storage.is_local(fs):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as work:
        target = Path(work, path.rstrip("/").rpartition("/")[2])
        fs.get(path, str(target), recursive=True)
        yield target
