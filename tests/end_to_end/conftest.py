"""One demo run for all tests that look at a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.command import pipeline


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
