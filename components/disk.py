"""Full disks: told from other errors however deep they hide, and said with what a person needs to mend them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from components.errors import DiskFullError, causes

TORCH = ("iostream error", "unexpected pos", "PytorchStreamWriter failed writing")  # its writer keeps the system's reason to itself
RAY = ("utilization is over capacity",)  # its OutOfDiskError: it takes a disk that is 95 % full for a full one
# What is said of a write that found no room.
SIGNS = (*(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)), *TORCH, *RAY)


@contextlib.contextmanager
def named_when_full(*folders: str | Path) -> Iterator[None]:
    """Raise DiskFullError, with the bytes that are free in `folders` (URIs are left out), for what comes of a write without room."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        lines = (line for one in causes(error) for line in reversed(str(one).splitlines()))
        said = next((line for line in lines if any(sign in line for sign in SIGNS)), None)
        if said is None:
            raise
        local = [str(folder) for folder in folders if "://" not in str(folder)]
        free = ", ".join(f"{shutil.disk_usage(_existing(folder)).free:,} bytes in {folder}" for folder in local) or "unknown"
        raise DiskFullError(f"no room for what is written: {said.strip()}; free are {free}") from error


def _existing(folder: str) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    path = Path(folder).absolute()
    return next(one for one in (path, *path.parents) if one.exists())
