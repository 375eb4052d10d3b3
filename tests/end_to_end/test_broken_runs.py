"""A run that is interrupted, stopped or killed goes on with the same command, to the same result."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.faults import aims, chaos

pytestmark = pytest.mark.end_to_end
SEED = 37  # of one kill of `make chaos`: it mostly meets a training worker
KEPT = ("tables", "backbone", "prompts")  # of the unbroken run: `make chaos` breaks these as well


def test_a_run_that_is_killed_stopped_and_interrupted_ends_as_an_unbroken_one(short_folder: Path, small: Path) -> None:
    output = short_folder / "broken" / "demo"
    for stage in KEPT:
        shutil.copytree(small / stage, output / stage)

    def checkpoints() -> set[str]:
        return {path.parent.name for path in (output / ".scratch").glob("*/checkpoint_*/position.json")}

    first: set[str] = set()

    def trained() -> bool:
        first.update(checkpoints() if len(checkpoints()) > 1 else ())
        return len(first) > 0

    def writes(stage: str) -> Callable[[], bool]:
        return lambda: any(output.glob(f"{stage}.partial-*"))

    steps = [
        (trained, aims.at_random(Random(SEED), every_s=0.0, kills=1)),
        (lambda: len(checkpoints() - first) > 0, aims.driver(signal.SIGKILL)),
        (writes("scores"), aims.driver(signal.SIGTERM)),
        (writes("policy"), aims.driver(signal.SIGINT)),
    ]
    outcome = chaos.attack(output.parent, small, chaos.RUN, aims.in_turn(steps))

    assert len(outcome.fire.hits) == len(steps)
    assert outcome.fire.ends[-3].startswith(f"-{signal.SIGKILL:d}: ")
    said = "interrupted: the same command goes on where this run stopped, training from its last checkpoint"
    assert outcome.fire.ends[-2:] == [f"130: {said}"] * 2
    assert outcome.fire.resumed >= 1
    copied = {f"demo/{stage}: recorded only in small" for stage in KEPT}
    assert set(outcome.unlike) == copied
    assert outcome.lost == 0
