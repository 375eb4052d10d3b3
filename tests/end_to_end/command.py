"""Running the real command line in a process of its own, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The smallest run that still goes through everything: with SMALL on any data, with FEW the demo's data are small too.
FEW = ["--dataset.users", "160", "--dataset.items", "200", "--dataset.interactions", "8000"]
SMALL = [
    "--tiny.hidden-size",
    "32",
    "--tiny.layers",
    "1",
    "--tiny.heads",
    "2",
    "--tiny.intermediate",
    "64",
    "--prompts.history-length",
    "3",
    "--prompts.joint-samples",
    "400",
    "--prompts.llm-samples",
    "400",
    "--prompts.early-stopping-samples",
    "200",
    "--prompts.actors",
    "1",
    "--train.warmup.epochs",
    "8",
    "--train.warmup.micro-batch",
    "64",
    "--train.joint.epochs",
    "1",
    "--train.llm.epochs",
    "1",
    "--score.llm-actors",
    "1",
    "--tune.trials",
    "5",
    "--tune.draws",
    "50",
    "--evaluate.bootstrap-draws",
    "50",
    "--evaluate.random-draws",
    "3",
]


def environment(temp: Path) -> dict[str, str]:
    """Return an environment whose Ray and MLflow leave nothing outside `temp`, which must have a short path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "HOME": str(temp), "TMPDIR": str(temp), "RAY_TMPDIR": str(temp / "ray"), "OMP_NUM_THREADS": "1"}


def pipeline(temp: Path, *arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    """Run `python pipelines/full.py` with these arguments and return what it printed."""
    (temp / "ray").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "pipelines" / "full.py"), *arguments]
    return subprocess.run(command, cwd=temp, env=environment(temp), capture_output=True, text=True, timeout=timeout_s, check=False)
