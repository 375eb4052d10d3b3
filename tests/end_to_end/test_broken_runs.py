"""A run that is interrupted, stopped or killed goes on with the same command, to the same result."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.end_to_end.command import ROOT, SMALL, environment, pipeline

pytestmark = pytest.mark.end_to_end
OFTEN = ["--train.checkpoint-every-s", "0"]


def broken(temp: Path, output: Path, when: Callable[[], bool], signum: signal.Signals) -> tuple[int, str]:
    """Start a run, send it the signal as soon as `when` is true, and return its exit code and what it said."""
    (temp / "ray").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "pipelines" / "full.py"), "demo", "--output", str(output), *SMALL, *OFTEN],
        cwd=temp,
        env=environment(temp),
        stderr=subprocess.PIPE,
        text=True,
        # A test that runs in the background of a shell would hand down that Ctrl-C is to be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline_s = time.monotonic() + 300
    while not when() and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    process.send_signal(signum)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def test_a_run_that_is_interrupted_stopped_and_killed_ends_as_an_unbroken_one(short_folder: Path) -> None:
    output, unbroken = short_folder / "broken", short_folder / "unbroken"

    code, said = broken(short_folder, output, lambda: (output / "tables" / "_manifest.json").exists(), signal.SIGINT)
    assert code == 130, said[-9000:]
    assert said.splitlines()[-1].startswith("interrupted: the same command goes on")

    code, said = broken(short_folder, output, lambda: (output / "prompts" / "_manifest.json").exists(), signal.SIGTERM)
    assert code == 130, said[-9000:]
    assert "tables" not in said  # it was there

    def is_training() -> bool:
        return len(list((output / ".scratch").glob("*/checkpoint_*/position.json"))) > 1

    code, said = broken(short_folder, output, is_training, signal.SIGKILL)
    assert code == -signal.SIGKILL, said[-9000:]

    for folder in (output, unbroken):
        done = pipeline(short_folder, "demo", "--output", str(folder), *SMALL, *OFTEN)
        assert done.returncode == 0, done.stderr[-4000:]
        assert ("goes on" in done.stderr) == (folder == output)
        assert not [path for path in folder.iterdir() if "partial" in path.name or path.name == ".scratch"]

    columns = ["split", "user_id", "item_id", "timestamp_s", "label", "p_crm", "p_llm"]
    one, other = (pd.read_parquet(folder / "scores")[columns].astype({"split": str}) for folder in (output, unbroken))
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-5)
