"""CoReLLa's training: CRM warm-up, joint training with alignment, the LLM alone. One loop for all three stages.

The loop knows no cluster: it is told its share of each batch, and whom to report to. All randomness derives from the
seed, the stage and the step, so a run that resumes from a checkpoint takes the very steps of one that was never broken.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components import metrics
from components.errors import DataError
from components.features.reader import SampleReader, Share
from components.features.store import FeatureStore
from components.features.tables import read_samples
from components.joint.data import Inputs, Window, Windows
from components.joint.engine import Engine
from components.joint.plan import Best, ModelName, Position, Stage, learning_rate
from components.llm.tokens import TokenLayout

VALID_ROWS = {"crm": 4096, "llm": 64}  # rows of a validation batch
Line = dict[str, float | str]


@dataclass(frozen=True)
class Surroundings:
    """What the loop needs of the outside."""

    share: Share
    report: Callable[[Line], None]  # called on every worker with each line of the training log
    checkpoint: Callable[[Callable[[Path], None]], None]  # gives every worker a folder to write its part of a checkpoint into
    checkpoint_every_s: float  # looked at when a line is logged
    log_every_steps: int = 20


class Training:
    """A run of all stages: owns the best weights of each model, the training log and the position inside the plan."""

    def __init__(
        self,
        stages: list[Stage],
        build: Callable[[ModelName], nn.Module],
        open_engine: Callable[[Stage, Mapping[ModelName, nn.Module]], Engine],
        store: FeatureStore,
        layout: TokenLayout,
        valid_uris: Mapping[ModelName, str],
        seed: int,
        around: Surroundings,
    ) -> None:
        """`build` makes a model as it is before any training; `valid_uris` hold the samples that each model is validated on."""
        self._stages, self._build, self._open_engine = stages, build, open_engine
        self._store, self._layout, self._valid_uris = store, layout, valid_uris
        self._seed, self._around = seed, around
        self.position = Position()
        self.best_weights: dict[str, dict[str, Tensor]] = {}
        self.log: list[Line] = []
        self._engine_folder: Path | None = None
        self._saved_s = time.monotonic()

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint that this loop wrote; its log is reported again, for whoever has not seen it."""
        self.position = Position.from_json((folder / "position.json").read_text())
        self.best_weights = {name: load_file(folder / f"best-{name}.safetensors") for name in self.position.best}
        for line in (folder / "training_log.jsonl").read_text().splitlines():
            self._report(json.loads(line))
        self._engine_folder = folder

    def run(self) -> None:
        """Train every stage that is left."""
        while self.position.stage < len(self._stages):
            if not self._is_over(self._stages[self.position.stage]):
                self._run_stage(self._stages[self.position.stage])
                gc.collect()  # an engine holds itself in cycles, and with it the models of the stage
            self._engine_folder = None
            self.position = Position(stage=self.position.stage + 1, best=self.position.best)

    def model(self, name: ModelName) -> nn.Module:
        """Return a model with the weights of its best validation so far; an engine may change it in place."""
        model = self._build(name)
        if name in self.best_weights:
            load_weights(model, self.best_weights[name])
        return model

    def write_state(self, folder: Path) -> None:
        """Write the position, the log and the best weights so far; one worker does it for all."""
        if self._around.share.rank == 0:
            (folder / "position.json").write_text(self.position.to_json())
            (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.log))
            for name, weights in self.best_weights.items():
                save_file(weights, folder / f"best-{name}.safetensors")

    def _is_over(self, stage: Stage) -> bool:
        return self.position.epoch >= stage.config.epochs or self.position.stale >= stage.config.patience

    def _run_stage(self, stage: Stage) -> None:
        """Train one stage from the position to its end."""
        engine = self._open_engine(stage, {name: self.model(name) for name in stage.models})
        batch_rows = stage.config.micro_batch * stage.config.accumulation * self._around.share.workers
        inputs = self._inputs(*stage.models)
        reader = SampleReader(stage.samples_uri, batch_rows, self._seed + self.position.stage, self._around.share, columns=inputs.columns)
        windows = Windows(inputs)
        valid: dict[ModelName, Window] = {name: self._valid_window(name) for name in stage.models}
        if self._engine_folder is not None:
            engine.load(self._engine_folder)
        elif not self.position.best.keys() >= set(stage.models):
            self._validate(stage, engine, valid)
        while not self._is_over(stage):
            self._run_epoch(stage, engine, reader, windows)
            self._validate(stage, engine, valid)
            self._save(engine)
        engine.close()

    def _run_epoch(self, stage: Stage, engine: Engine, reader: SampleReader, windows: Windows) -> None:
        """Take the remaining steps of an epoch."""
        steps = sum(reader.batches(epoch) for epoch in range(stage.config.epochs))
        for samples, batches in reader.epoch(self.position.epoch, self.position.batch):
            window = windows.of(samples)
            for rows in batches:
                self._seed_step()
                rate = learning_rate(stage.config, self.position.step, steps)
                losses = engine.step(window.micro_batches(rows, stage.config.micro_batch), rate)
                self.position.batch += 1
                self.position.step += 1
                if self.position.step % self._around.log_every_steps == 0 or self.position.step == steps:
                    self._pause(stage, engine, losses, rate, steps)
        self.position.epoch, self.position.batch = self.position.epoch + 1, 0

    def _pause(self, stage: Stage, engine: Engine, losses: Mapping[str, Tensor], rate: float, steps: int) -> None:
        """Log a step, and write a checkpoint if it is time: the first worker's clock decides for all."""
        mine = torch.stack([*losses.values(), losses["loss"].new_tensor(time.monotonic() - self._saved_s)]).float()
        by_worker = _gather(mine, self._around.share.workers)
        means = dict(zip(losses, by_worker.mean(0).tolist(), strict=False))
        named = {f"train_{name}" if name == "loss" else f"train_{name}_loss": value for name, value in means.items()}
        self._report({"stage": stage.name, "step": self.position.step, "steps": steps, "rate": rate, **named})
        if by_worker[0, -1] >= self._around.checkpoint_every_s:
            self._save(engine)

    def _valid_window(self, name: ModelName) -> Window:
        inputs = self._inputs(name)
        return Window(read_samples(self._valid_uris[name], inputs.columns), inputs)

    def _inputs(self, *models: ModelName) -> Inputs:
        return Inputs(self._store, self._layout, crm="crm" in models, llm="llm" in models)

    def _validate(self, stage: Stage, engine: Engine, valid: Mapping[ModelName, Window]) -> None:
        """Measure each model of the stage on validation rows and keep its weights if they are its best so far."""
        line: Line = {"stage": stage.name, "step": self.position.step, "epoch": self.position.epoch}
        self.position.stale += 1
        for name, window in valid.items():
            logits, label = self._scores(engine, name, window), window.label
            auc = metrics.auc(label, logits)
            if np.isnan(auc):
                raise DataError(f"expected validation samples of both labels at {self._valid_uris[name]}, got one in {len(label)} rows")
            line |= {f"valid_{name}_auc": auc, f"valid_{name}_logloss": metrics.logloss(label, 1.0 / (1.0 + np.exp(-logits)))}
            if auc > self.position.best.get(name, Best()).auc:
                self.position.best[name] = Best(auc, stage.name, self.position.epoch)
                self.best_weights[name] = engine.weights(getattr(engine.model, name))
                self.position.stale = 0 if name == stage.leader else self.position.stale
        self._report(line)

    def _scores(self, engine: Engine, name: ModelName, window: Window) -> NDArray[np.float64]:
        """Return the click logits of all rows; workers share the rows and every one of them gets all the logits."""
        order, workers = window.order_by_length(), self._around.share.workers
        mine = np.resize(order, -(-len(order) // workers) * workers)[self._around.share.rank :: workers]
        logits: list[Tensor] = []
        for start in range(0, len(mine), VALID_ROWS[name]):
            output = engine.evaluate(window.batch(mine[start : start + VALID_ROWS[name]]))
            part = output.crm_logits_B if name == "crm" else output.llm_logits_B
            assert part is not None, f"the engine's model has no {name}"
            logits.append(part.double())
        gathered = _gather(torch.cat(logits), workers)
        scores = np.empty(len(order))
        scores[order] = gathered.T.reshape(-1)[: len(order)]
        return scores

    def _report(self, line: Line) -> None:
        self.log.append(line)
        self._around.report(line)

    def _save(self, engine: Engine) -> None:
        """Write a checkpoint, each worker its part."""

        def write(folder: Path) -> None:
            engine.save(folder)
            self.write_state(folder)

        self._around.checkpoint(write)
        self._saved_s = time.monotonic()

    def _seed_step(self) -> None:
        """Make what a step draws depend on the seed, the stage, the step and the worker alone."""
        key = [self._seed, self.position.stage, self.position.step, self._around.share.rank]
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        # torch.manual_seed would take a tenth of a millisecond: without a GPU it notes a traceback for later.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(seed)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load trained weights and buffers into a model whose frozen weights are in place."""
    missing, unexpected = model.load_state_dict(dict(weights), strict=False)
    lost = {name for name, parameter in model.named_parameters() if parameter.requires_grad} & set(missing)
    assert not unexpected, f"weights do not fit: unexpected {unexpected}"
    assert not lost, f"weights do not fit: missing {lost}"


def _gather(mine: Tensor, workers: int) -> NDArray[np.float64]:
    """Return every worker's values as [workers, values]."""
    if workers == 1:
        return mine.cpu().numpy()[None]
    parts = [torch.empty_like(mine) for _ in range(workers)]
    torch.distributed.all_gather(parts, mine)
    return torch.stack(parts).cpu().numpy()
