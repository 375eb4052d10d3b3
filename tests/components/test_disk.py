"""Writes that find no room, whichever library makes them: one clear error, nothing earlier damaged, and the rerun succeeds."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ray.exceptions import OutOfDiskError
from safetensors.torch import save_file

from components import artifacts
from components.disk import named_when_full
from components.errors import DataError, DiskFullError

LARGE = np.random.default_rng(0).random(100_000)  # 800 kB
WRITERS: dict[str, Callable[[Path], object]] = {
    "plain": lambda path: path.write_bytes(LARGE.tobytes()),
    "Parquet": lambda path: pd.DataFrame({"x": LARGE}).to_parquet(path),
    "torch": lambda path: torch.save({"x": torch.from_numpy(LARGE)}, path),
    "safetensors": lambda path: save_file({"x": torch.from_numpy(LARGE)}, path),
}


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a disk that is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_stage_without_room_leaves_the_earlier_artifact_and_succeeds_later(tmp_path: Path, writer: str) -> None:
    uri = str(tmp_path / "scores")
    with artifacts.create(uri, "first", ()) as (folder, _):
        (Path(folder) / "earlier").write_text("whole")

    def write() -> None:
        with artifacts.create(uri, "second", ()) as (folder, _):
            WRITERS[writer](Path(folder) / "large")

    said = rf"^no room for what is written: .*; free are [\d,]+ bytes in {tmp_path}$"
    with pytest.raises(DiskFullError, match=said), room(100_000), named_when_full(tmp_path):
        write()
    artifacts.verify(uri)
    assert artifacts.require(uri).fingerprint == "first"
    write()
    artifacts.verify(uri)
    assert artifacts.require(uri).fingerprint == "second"


def fail_inside_a_library() -> None:
    try:
        Path("/dev/full").write_text("x")
    except OSError as error:
        raise RuntimeError("a library's own error") from error


def test_the_systems_own_word_for_a_full_disk_is_known_however_deep_it_hides(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="No space left on device; free are"), named_when_full(tmp_path / "not" / "there"):
        fail_inside_a_library()


def test_a_disk_that_ray_finds_too_full_to_spill_to_is_a_full_disk(tmp_path: Path) -> None:
    said = r"^no room for what is written: .* local disk's utilization is over capacity \(95% by default\).*; free are [\d,]+ bytes"
    with pytest.raises(DiskFullError, match=said), named_when_full(tmp_path):
        raise OutOfDiskError("Local disk is full")


def test_an_object_store_has_no_free_bytes_to_tell(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"free are unknown$"), named_when_full("s3://bucket/out"):
        raise OSError(28, "No space left on device")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^one label$"), named_when_full(tmp_path):
        raise DataError("one label")
