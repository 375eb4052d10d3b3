"""Finished runs, for all tests that look at one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.file_lock import file_lock
from tests.end_to_end.command import pipeline
from tests.faults import chaos


@dataclass(frozen=True)
class FinishedRun:
    temp: Path
    output: Path
    printed: str


@pytest.fixture(scope="session")
def demo(short_folder: Path) -> FinishedRun:
    output = short_folder / "runs" / "demo"
    done = pipeline(short_folder, "demo", "--output", str(output))
    assert done.returncode == 0, done.stderr[-4000:]
    return FinishedRun(short_folder, output, done.stdout)


@pytest.fixture(scope="session")
def small(short_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the smallest demo run: one for all processes of a test session, made by the first that asks."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    output = folder / "small" / "demo"
    with file_lock(folder / "small.lock"):
        if not (output / "report" / "_manifest.json").exists():
            done = pipeline(short_folder, *chaos.RUN, "--output", str(output))
            assert done.returncode == 0, done.stderr[-4000:]
    return output
