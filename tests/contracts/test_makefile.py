"""What the Makefile's targets would do."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def planned(target: str) -> str:
    return subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


def test_cleaning_removes_what_can_be_made_again_and_no_finished_run() -> None:
    assert ".venv" in planned("clean")
    assert "runs" not in planned("clean")
    assert planned("clean-runs").strip() == "rm -rf runs"
