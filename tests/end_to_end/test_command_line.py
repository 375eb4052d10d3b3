"""Exit codes and messages of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.lock import owned
from tests.end_to_end.command import ROOT, environment, pipeline

pytestmark = pytest.mark.end_to_end


def test_an_unknown_key_is_refused_with_the_nearest_name(short_folder: Path) -> None:
    done = pipeline(short_folder, "demo", "--crm.embeding-size", "8")
    assert done.returncode == 2
    assert "--crm.embedding-size" in done.stdout + done.stderr
    assert not (short_folder / "runs" / "demo" / "tables").exists()


def test_a_value_out_of_range_is_refused(short_folder: Path) -> None:
    done = pipeline(short_folder, "demo", "--prepare.max-bad-fraction", "1.5")
    assert done.returncode == 2
    assert "max_bad_fraction" in done.stdout + done.stderr


def test_an_unknown_recipe_names_those_there_are(short_folder: Path) -> None:
    done = pipeline(short_folder, "ml-10m")
    assert done.returncode == 2
    assert "ml-1m-collm" in done.stdout + done.stderr


def test_missing_raw_files_are_one_clear_error(short_folder: Path) -> None:
    done = pipeline(short_folder, "ml-100k", "--data", str(short_folder / "nowhere"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error:")
    assert "u.data" in done.stderr


def test_help_lists_every_key_with_its_default(short_folder: Path) -> None:
    done = pipeline(short_folder, "demo", "--help")
    assert done.returncode == 0
    for key in ("--prepare.history-length", "--crm.dcnv2.cross-layers", "--train.deepspeed.zero-stage", "--tune.max-llm-share", "default"):
        assert key in done.stdout


def test_a_relative_output_is_refused_inside_a_job(short_folder: Path) -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "full.py"), "demo"]
    inside = {**environment(short_folder), "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    done = subprocess.run(command, cwd=short_folder, env=inside, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--output" in done.stderr


def test_an_output_folder_in_use_ends_with_75_and_names_the_owner(short_folder: Path) -> None:
    output = short_folder / "busy"
    with owned(str(output)):
        done = pipeline(short_folder, "demo", "--output", str(output))
    assert done.returncode == 75
    assert str(os.getpid()) in done.stderr
