"""Train: CoReLLa's three stages in one Ray Train run, the LLM's under DeepSpeed ZeRO.

One worker group does all stages: starting a trainer takes longer than some of them. Checkpoints go through Ray Train, so
a killed worker or driver goes on where the last one stood.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import fsspec
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import nn

from components import artifacts
from components.crm import CrmConfig
from components.crm import build as build_crm
from components.errors import ConfigError, TandemError
from components.features.reader import Share
from components.features.tables import load_store
from components.joint import alignment, deepspeed_engine
from components.joint.alignment import Alignment
from components.joint.deepspeed_engine import DeepSpeedEngine
from components.joint.engine import Engine, ParameterGroup, TorchEngine
from components.joint.ensemble import save_crm
from components.joint.model import JointModel, LossWeights
from components.joint.plan import ModelName, Position, Stage, StageConfig
from components.joint.training import Surroundings, Training, load_weights
from components.llm import backbone
from pipelines.board import Line, Reader
from pipelines.stage import StageContext


@dataclass(frozen=True)
class Config:
    """Who trains, on what, and in which stages."""

    workers: int = 2
    """Ray Train workers."""
    cpus_per_worker: int = 1
    """CPUs, and with them threads, of each worker."""
    gpus_per_worker: float = 1.0
    """GPUs of each worker where GPUs are used."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """Train on GPUs; auto: if the cluster has enough of them."""
    deepspeed: deepspeed_engine.Config = field(default_factory=deepspeed_engine.Config)
    alignment: alignment.Config = field(default_factory=alignment.Config)
    warmup: StageConfig = StageConfig(LossWeights(crm=1.0), epochs=10, micro_batch=1024, schedule="constant")
    """Stage 1: the CRM alone, on all training samples."""
    joint: StageConfig = StageConfig(LossWeights(llm=1.0, crm=1.0, alignment=0.1), epochs=1, micro_batch=16)
    """Stage 2: both models with the alignment loss, on a sample."""
    llm: StageConfig = StageConfig(LossWeights(llm=1.0), epochs=1, micro_batch=16)
    """Stage 3: the LLM alone, on another sample."""
    max_failures: int = 3
    """Times that lost workers are replaced before the run gives up."""
    checkpoint_every_s: float = 300.0
    """Seconds between checkpoints; one is also written after each epoch."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus_per_worker < 1 or self.gpus_per_worker <= 0:
            raise ConfigError("train: expected workers and cpus_per_worker >= 1 and gpus_per_worker > 0")
        if not 0 <= self.max_failures <= 100:
            raise ConfigError(f"train.max_failures: expected 0 to 100, got {self.max_failures}")


@dataclass(frozen=True)
class Job:
    """All that a training worker needs; travels to it pickled."""

    train: Config
    crm: CrmConfig
    llm: backbone.Config  # where the LLM starts from
    tables: str
    prompts: str
    max_tokens: int
    seed: int
    gpu: bool = False


def run(context: StageContext, job: Job) -> None:
    """Write the artifact `checkpoints/`: `crm/`, `llm/` and `training_log.jsonl`; goes on where a run of the same fingerprint stopped."""
    storage = artifacts.join(context.output, ".training")
    job = replace(job, gpu=wants_gpu(job.train))
    log = TrainingLog(context)
    with Reader(log.add) as reader:
        trainer = TorchTrainer(
            work,
            train_loop_config={"job": job, "board": reader.board},
            torch_config=TorchConfig(backend="nccl" if job.gpu else "gloo"),
            scaling_config=scaling(job.train, job.gpu),
            run_config=RayRunConfig(
                name=context.fingerprint,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=job.train.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise TandemError(f"training stopped after {job.train.max_failures} restarts: {error}") from error
    assert result.checkpoint is not None, "the last thing that training does is to report a checkpoint"
    _export(result.checkpoint, context)
    log.write(artifacts.join(context.folder, "training_log.jsonl"))
    context.facts["work"] = (log.steps, "steps")
    fs, path = fsspec.core.url_to_fs(artifacts.join(storage, context.fingerprint))
    fs.rm(path, recursive=True)


def wants_gpu(config: Config) -> bool:
    """Tell whether to train on GPUs: as configured, or if the cluster has enough of them."""
    if config.use_gpu != "auto":
        return config.use_gpu == "yes"
    return ray.cluster_resources().get("GPU", 0) >= config.workers * config.gpus_per_worker


def scaling(config: Config, gpu: bool) -> ScalingConfig:
    """Return the workers and resources that a run asks the cluster for."""
    gpus = {"GPU": config.gpus_per_worker} if gpu else {}
    return ScalingConfig(num_workers=config.workers, use_gpu=gpu, resources_per_worker={"CPU": config.cpus_per_worker, **gpus})


def work(settings: dict[str, Any]) -> None:
    """Train on one worker (runs inside Ray Train)."""
    job: Job = settings["job"]
    torch.set_num_threads(job.train.cpus_per_worker)
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    around = Surroundings(
        share=share,
        report=lambda line: settings["board"].pin.remote(line) if share.rank == 0 else None,
        checkpoint=_checkpoint,
        checkpoint_every_s=job.train.checkpoint_every_s,
    )
    workbench = Workbench(job, share.workers)
    training = Training(
        workbench.stages(), workbench.build, workbench.engine, workbench.store, workbench.layout, workbench.valid, job.seed, around
    )
    latest = ray.train.get_checkpoint()
    if latest is not None:
        with latest.as_directory() as folder:
            training.resume(Path(folder))
            training.run()
    else:
        training.run()

    def export(folder: Path) -> None:
        training.write_state(folder)
        if share.rank == 0:
            save_crm(training.model("crm"), job.crm, folder / "models" / "crm")
            llm, tokenizer = backbone.load(job.llm)
            load_weights(llm, training.best_weights["llm"])
            backbone.save(llm, tokenizer, str(folder / "models" / "llm"))

    _checkpoint(export)


class Workbench:
    """What one worker builds its models and engines from."""

    def __init__(self, job: Job, workers: int) -> None:
        self._job, self._workers = job, workers
        self._device = "cuda" if job.gpu else "cpu"
        self.store = load_store(job.tables)
        self.layout = backbone.load_encoder(job.llm, job.max_tokens).layout
        self.valid: dict[ModelName, str] = {
            "crm": artifacts.join(job.tables, "valid"),
            "llm": artifacts.join(job.prompts, "early_stopping"),
        }

    def stages(self) -> list[Stage]:
        """Return the stages that train anything, with their samples."""
        train, prompts = self._job.train, self._job.prompts
        all_stages = [
            Stage("warmup", train.warmup, artifacts.join(self._job.tables, "train")),
            Stage("joint", train.joint, artifacts.join(prompts, "joint")),
            Stage("llm", train.llm, artifacts.join(prompts, "llm")),
        ]
        return [stage for stage in all_stages if stage.config.epochs > 0]

    def build(self, name: ModelName) -> nn.Module:
        """Build a model as it is before training, the same on every worker."""
        torch.manual_seed(self._job.seed)
        if name == "crm":
            return build_crm(self._job.crm, self.store.inputs)
        return backbone.load(self._job.llm)[0]

    def engine(self, stage: Stage, models: Mapping[ModelName, nn.Module]) -> Engine:
        """Wrap the models of a stage in the engine that trains them."""
        config, settings = stage.config, self._job.train
        crm, llm = models.get("crm"), models.get("llm")
        torch.manual_seed(self._job.seed)
        between = (
            Alignment(settings.alignment, llm.hidden_size, llm.blocks, crm.hidden_widths)
            if crm and llm and config.weights.alignment
            else None
        )
        model = JointModel(crm, llm, between, config.weights)
        parts = [(crm, config.crm_learning_rate), (llm, config.llm_learning_rate), (between, config.crm_learning_rate)]
        groups = [
            ParameterGroup([value for value in part.parameters() if value.requires_grad], rate, config.weight_decay)
            for part, rate in parts
            if part is not None
        ]
        if llm is None:
            return TorchEngine(model, groups, self._device, settings.deepspeed.gradient_clipping)
        return DeepSpeedEngine(model, groups, self._device, settings.deepspeed, config.micro_batch, config.accumulation)


def _checkpoint(write: Callable[[Path], None]) -> None:
    """Write a checkpoint and hand it to Ray Train; every worker writes its part."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        write(Path(folder))
        ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))


def _export(checkpoint: Checkpoint, context: StageContext) -> None:
    """Copy the trained models from the last checkpoint into the artifact."""
    with checkpoint.as_directory() as folder:
        fs, path = fsspec.core.url_to_fs(context.folder)
        fs.put(f"{Path(folder) / 'models'}/", f"{path}/", recursive=True)
        position = Position.from_json((Path(folder) / "position.json").read_text())
    context.facts["best"] = position.best


class TrainingLog:
    """The lines that workers report, shown as they come; a step that a resumed run takes again replaces its first line."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._lines: dict[tuple[str, float, bool], Line] = {}

    def add(self, line: Line) -> None:
        stage, step = str(line["stage"]), int(line["step"])
        validated = "steps" not in line
        self._lines[stage, step, validated] = line
        figures = {name: value for name, value in line.items() if isinstance(value, float)}
        text = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "rate")
        self._context.on_metrics({f"{stage}/{name}": value for name, value in figures.items()}, step)
        if validated:
            self._context.progress.say(f"{stage}, epoch {line['epoch']}: {text}")
        else:
            self._context.progress.update(step, int(line["steps"]), f"{stage} steps ({text})")

    @property
    def steps(self) -> int:
        """Optimizer steps taken, all stages together."""
        last = {stage: step for stage, step, validated in self._lines if not validated}
        return int(sum(last.values()))

    def write(self, uri: str) -> None:
        with fsspec.open(uri, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in self._lines.values())  # pyright: ignore[reportAttributeAccessIssue]
