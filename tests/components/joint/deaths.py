"""What workers do in the tests of killed workers: train as under Ray Train, with sealed checkpoints, until one of them dies."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from components.features.reader import Share
from components.joint.checkpoint import newest_whole, seal
from components.joint.training import Line, Surroundings
from components.joint.workbench import Parts, Workbench
from tests.components.joint import runs, worlds
from tests.components.joint.engines import arrays
from tests.components.joint.runs import Ended

WORKERS = 2
EVERY_STEPS = 2  # a line of the log, and a checkpoint

Moment = Literal["step", "validation", "checkpoint"]


@dataclass(frozen=True)
class Death:
    """Which worker dies, and where: after a step, after a validation, or before its part of a checkpoint is handed over."""

    stage: str
    step: int
    moment: Moment = "step"
    rank: int = 1


def through(deaths: Sequence[Death], data: Path, made_of: Parts, folder: Path) -> Ended:
    """Train with a killed worker at each of these places, every time from what is left below `folder`; return how it ended."""
    folder.mkdir()
    for attempt, death in enumerate([*deaths, None]):
        start = newest_whole(str(folder / "checkpoints"), WORKERS, lambda flaw: None)
        ended = worlds.attempt(WORKERS, train, data, made_of, folder, attempt, start, death)
        assert (ended is None) == (death is not None), f"expected {death} in attempt {attempt}"
        if ended is not None:
            return ended[0]
    raise AssertionError("the last attempt has no death")


def train(rank: int, workers: int, data: Path, made_of: Parts, folder: Path, attempt: int, start: str | None, death: Death | None) -> Ended:
    """Train on one worker, and die if it is this one's turn."""
    at: tuple[str, int] = ("", 0)
    number = itertools.count()

    def reached(moment: Moment) -> None:
        if death and (death.stage, death.step, death.moment, death.rank) == (*at, moment, rank):
            os.kill(os.getpid(), signal.SIGKILL)

    def report(line: Line) -> None:
        nonlocal at
        at = str(line["stage"]), int(line["step"])
        if rank == 0:
            with (folder / "reported.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        reached("step" if "steps" in line else "validation")

    def checkpoint(write: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            write(Path(aside))
            reached("checkpoint")
            seal(Path(aside), rank)
            shutil.copytree(aside, folder / "checkpoints" / f"checkpoint_{attempt}_{next(number):03}", dirs_exist_ok=True)

    around = Surroundings(Share(rank, workers), report, checkpoint, 0.0, log_every_steps=EVERY_STEPS)
    training = Workbench(made_of, "cpu").training(runs.stages(data, workers), around)
    if start is not None:
        training.resume(Path(start))
    training.run()
    weights = {name: arrays(found) for name, found in training.best_weights.items()}
    best = {name: (best.auc, best.stage, best.epoch) for name, best in training.position.best.items()}
    return Ended(training.log, [], weights, best, [])


def checkpoints(folder: Path) -> dict[tuple[int, ...], Path]:
    """Return the checkpoints below `folder` by their position in the plan: stage, epoch, batch and step."""
    found: dict[tuple[int, ...], Path] = {}
    for path in folder.glob("checkpoints/*/position.json"):
        place = json.loads(path.read_text())
        found[tuple(place[name] for name in ("stage", "epoch", "batch", "step"))] = path.parent
    return found


def assert_same_state(broken: Path, unbroken: Path) -> None:
    """Compare what the engines held, optimizer and all, wherever both runs left a checkpoint."""
    found, expected = checkpoints(broken), checkpoints(unbroken)
    assert found
    assert found.keys() <= expected.keys()
    for place, folder in found.items():
        held, wanted = tensors(folder), tensors(expected[place])
        assert any("exp_avg_sq" in name for name in wanted)
        assert held.keys() == wanted.keys()
        apart = {name: float((held[name].double() - value.double()).abs().max()) for name, value in wanted.items() if value.numel()}
        assert max(apart.values()) <= 1e-6, f"{place}: {max(apart, key=lambda name: apart[name])} differs"


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint's engine: parameters, and what the optimizer knows of them."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(checkpoint.rglob("*.pt")):
        found |= {f"{path.name}{name}": value for name, value in _flat(torch.load(path, weights_only=False))}
    return found


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _flat(item, f"{name}/{number}")
