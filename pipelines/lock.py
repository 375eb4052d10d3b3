"""One run owns an output folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from components import storage
from components.artifacts import join
from components.errors import ConfigError, OutputBusyError
from pipelines.lease import leased

NAME = ".lock"  # in the output folder
POLL_S = 1.0


@contextlib.contextmanager
def owned(output: str, wait: bool = False) -> Iterator[Callable[[], None]]:
    """Hold the output folder's lock; where another run holds it, wait for it or raise OutputBusyError, which names the owner.

    Yields what raises OutputBusyError if the lock was lost meanwhile, which can only be in an object store.
    """
    fs, path = storage.filesystem(output)
    me = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}"

    def busy(owner: str) -> None:
        if not wait:
            raise OutputBusyError(f"{output} is in use by {owner}; wait for it (--wait) or choose another --output")
        print(f"waiting: {output} is in use by {owner}", file=sys.stderr, flush=True)

    with _locked(output, Path(path), me, busy) if storage.is_local(fs) else leased(fs, join(path, NAME), me, busy) as require:
        yield require


@contextlib.contextmanager
def _locked(output: str, path: Path, me: str, busy: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the lock of a folder on a disk: the kernel's, which it frees when the owner dies, however it dies."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        opened = (path / NAME).open("a+")
    except OSError as error:
        raise ConfigError(
            f"--output {output}: expected a folder that can be made and written, {error.strerror}: {error.filename}"
        ) from error
    with opened as file:
        told = False
        while not _is_free(file):
            if not told:
                file.seek(0)
                busy(file.read().strip() or "?")
            told = True
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(me)
        file.flush()
        yield lambda: None


def _is_free(file: TextIO) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
