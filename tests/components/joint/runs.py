"""What workers do in the tests of the training loop: whole runs of the three stages on the tiny data set, unbroken or resumed."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from components.crm import CrmConfig
from components.crm.dcnv2 import Dcnv2
from components.features.reader import Share
from components.joint import alignment, deepspeed_engine
from components.joint import training as training_loop
from components.joint.model import LossWeights
from components.joint.plan import Stage, StageConfig
from components.joint.training import Line, Surroundings, Training
from components.joint.workbench import Parts, Workbench
from components.llm import backbone
from tests.components.joint.engines import arrays
from tests.components.joint.prepared import MAX_TOKENS

CRM = CrmConfig(embedding_size=4, dropout=0.2, unknown_rate=0.1, dcnv2=Dcnv2.Config(hidden_sizes=(8,)))  # much is left to chance
STILL = replace(CRM, dropout=0.0, unknown_rate=0.0, user_unknown_rate=0.0)  # nothing is
LORA = {"finetune": "lora", "lora_rank": 2, "lora_dropout": 0.1}


@dataclass(frozen=True)
class Ended:
    """What a run came to on one worker."""

    log: list[Line]
    reported: list[Line]
    weights: dict[str, dict[str, Any]]  # of each model's best validation
    best: dict[str, tuple[float, str, int]]
    checkpoints: list[str]  # where each one stood: position.json


def parts(data: Path, crm: CrmConfig = CRM, **llm: Any) -> Parts:
    zero = deepspeed_engine.Config(zero_stage=2, precision="fp32")
    config = backbone.Config(path=str(data / "backbone"), **llm)
    tables, prompts = str(data / "tables"), str(data / "prompts")
    return Parts(crm, config, zero, alignment.Config(width=4), tables, prompts, MAX_TOKENS, 5, sparse_tables=False)


def stages(data: Path, workers: int = 1) -> list[Stage]:
    """12 steps of warm-up in two epochs, 12 joint ones in two epochs, 6 of the LLM alone."""
    rates = {"crm_learning_rate": 1e-2, "llm_learning_rate": 2e-3}
    warmup = StageConfig(LossWeights(crm=1.0), epochs=2, micro_batch=32 // workers, schedule="linear", **rates)
    joint = StageConfig(LossWeights(1.0, 1.0, 0.1), epochs=2, micro_batch=8 // workers, accumulation=2, **rates)
    llm = StageConfig(LossWeights(llm=1.0), epochs=1, micro_batch=16 // workers, weight_decay=0.01, **rates)
    return [
        Stage("warmup", warmup, str(data / "tables" / "train")),
        Stage("joint", joint, str(data / "prompts" / "joint")),
        Stage("llm", llm, str(data / "prompts" / "llm")),
    ]


def unbroken(rank: int, workers: int, data: Path, made_of: Parts, keep: Path | None) -> Ended:
    """Run all stages, with a checkpoint after each step in a folder of its own where they are kept."""
    return _run(rank, workers, data, made_of, keep, None)


def by_clocks_that_differ(rank: int, workers: int, data: Path, made_of: Parts, keep: Path) -> Ended:
    """The same, but on all workers but the first it is never time for a checkpoint: their clocks go backwards."""
    if rank > 0:
        training_loop.time = SimpleNamespace(monotonic=itertools.count(0.0, -1.0).__next__)  # pyright: ignore[reportAttributeAccessIssue]
    return _run(rank, workers, data, made_of, keep, None)


def resumed(rank: int, workers: int, data: Path, made_of: Parts, checkpoints: list[Path]) -> list[Ended]:
    """Run what is left after each of these checkpoints, one run after the other."""
    return [_run(rank, workers, data, made_of, None, folder) for folder in checkpoints]


def _run(rank: int, workers: int, data: Path, made_of: Parts, keep: Path | None, start: Path | None) -> Ended:
    reported: list[Line] = []
    positions: list[str] = []

    def checkpoint(write: Any) -> None:
        with tempfile.TemporaryDirectory() as aside:
            folder = keep / f"checkpoint_{len(positions):03}" if keep else Path(aside)
            folder.mkdir(exist_ok=True, parents=True)
            write(folder)
            positions.append((folder / "position.json").read_text() if rank == 0 else "")

    around = Surroundings(Share(rank, workers), reported.append, checkpoint, 0.0 if keep else 1e9, log_every_steps=1)
    training: Training = Workbench(made_of, "cpu").training(stages(data, workers), around)
    if start is not None:
        training.resume(start)
    training.run()
    weights = {name: arrays(found) for name, found in training.best_weights.items()}
    best = {name: (best.auc, best.stage, best.epoch) for name, best in training.position.best.items()}
    return Ended(training.log, reported, weights, best, positions)


def places(checkpoints: list[str]) -> dict[tuple[int, int, int], int]:
    """Return the number of each checkpoint by its (stage, epoch, batch)."""
    found = [json.loads(text) for text in checkpoints]
    return {(place["stage"], place["epoch"], place["batch"]): number for number, place in enumerate(found)}
