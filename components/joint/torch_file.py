"""Reading files that torch wrote: they are pickles, which may run anything, so that tensors and plain values alone are let in."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from components.errors import ArtifactError


def read(path: Path | str, device: Any, records: Sequence[type] = ()) -> Any:
    """Return what is in the file, its tensors on `device` (None: where they were); `records` are classes that it may hold beside them.

    Raises ArtifactError, with nothing run, where it holds anything else.
    """
    try:
        with torch.serialization.safe_globals(list(records)):
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(f"{path}: expected tensors and plain values, got a file that asks for more; it was not opened") from error
