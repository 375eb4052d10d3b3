"""What the Makefile's targets would do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipelines import command_line

ROOT = Path(__file__).resolve().parents[2]


def planned(target: str) -> str:
    # Run by make itself, this make would take itself for a part of that one and announce its folder.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "--dry-run", target]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


def test_cleaning_removes_what_can_be_made_again_and_no_finished_run() -> None:
    assert ".venv" in planned("clean")
    assert "runs" not in planned("clean")
    assert planned("clean-runs").strip() == "rm -rf runs"


@pytest.mark.parametrize("command", [planned("mlflow"), command_line._mlflow("sqlite:///runs.db")])
def test_mlflow_listens_on_loopback_and_runs_no_jobs(command: str) -> None:
    for words in (
        "--host 127.0.0.1",
        "--allowed-hosts localhost:5000,127.0.0.1:5000",
        "JOB_EXECUTION=false",
        "PICKLE_DESERIALIZATION=false",
    ):
        assert words in command
