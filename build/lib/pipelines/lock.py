"""One run owns an output folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from components.errors import ConfigError, OutputBusyError


@contextlib.contextmanager
def owned(output: str) -> Iterator[None]:
    """Hold the output folder's lock; raise OutputBusyError, naming the owner, when another run holds it.

    The kernel frees the lock when its owner dies, however it dies. Object stores have no such lock and are not locked.
    """
    fs, path = fsspec.core.url_to_fs(output)
    if not isinstance(fs, LocalFileSystem):
        yield
        return
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {output}: expected a folder that can be made, {error.strerror}: {error.filename}") from error
    with (Path(path) / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OutputBusyError(
                f"{output} is in use by process {file.read().strip() or '?'}; wait for it or choose another --output"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
