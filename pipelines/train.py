"""Train: CoReLLa's three stages in one Ray Train run, the LLM's under DeepSpeed ZeRO.

One worker group does all stages: starting a trainer takes longer than some of them. Checkpoints go through Ray Train, so
a killed worker or driver goes on where the last one stood.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ray.train import (
    Checkpoint,
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    Result,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train import RunConfig as RayRunConfig

from components import artifacts, storage
from components.bounds import require_above, require_at_least
from components.crm import CrmConfig
from components.disk import named_when_full
from components.errors import ConfigError, ResourceError, TandemError
from components.joint import alignment, deepspeed_engine
from components.joint.checkpoint import newest_whole
from components.joint.model import LossWeights
from components.joint.plan import Position, Stage, StageConfig
from components.llm import config as llm_config
from pipelines import cluster
from pipelines.board import Line, Reader
from pipelines.mistakes import MISTAKES, EndOnMistake
from pipelines.stage import StageContext
from pipelines.training_log import Monitor, read_log, steps_made

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

# How long Ray Train waits, in seconds. Its own defaults are made for quiet machines and long epochs, or are endless.
RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": 0.25,  # between looks at the workers: a checkpoint that waits for one holds them up
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": 300,  # for a place for all workers
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": 300,  # for a sign of life of a worker
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": 1800,  # for the slowest worker at a checkpoint
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": 0,  # a process more, and nothing here acts on its notice
}
OWN_SECONDS = "own_seconds.json"  # in the last checkpoint: how long the first worker trained, without what Ray Train takes
TORCH_TIMEOUT_S = 1800  # for the slowest worker in a step
AUTOSCALED_START_TIMEOUT_S = 3600  # for a place on nodes that first have to be found, started and set up
STARTS = 2  # times that a place for all workers is waited for


@dataclass(frozen=True)
class Config:
    """Who trains, on what, and in which stages."""

    OPERATIONAL: ClassVar = ("max_failures", "checkpoint_every_s")

    workers: int = 2
    """Ray Train workers."""
    cpus_per_worker: int = 1
    """CPUs, and with them threads, of each worker."""
    gpus_per_worker: float = 1.0
    """GPUs of each worker where GPUs are used."""
    use_gpu: cluster.Asked = "auto"
    """Train on GPUs; auto: if the cluster has places for all workers with them."""
    deepspeed: deepspeed_engine.Config = field(default_factory=deepspeed_engine.Config)
    alignment: alignment.Config = field(default_factory=alignment.Config)
    sparse_tables: bool = False
    """In the CRM's warm-up a step moves only the embeddings that its batch names, which then have no weight decay: for tables of a million
    rows and more, where it is twice as fast (small ones are slower by it). Not with several GPU workers."""
    warmup: StageConfig = field(
        default_factory=lambda: StageConfig(
            LossWeights(crm=1.0), epochs=10, micro_batch=512, crm_learning_rate=1e-2, weight_decay=0.1, schedule="constant"
        )
    )
    """Stage 1: the CRM alone, on all training samples."""
    joint: StageConfig = field(default_factory=lambda: StageConfig(LossWeights(llm=1.0, crm=1.0, alignment=0.1), epochs=1, micro_batch=16))
    """Stage 2: both models with the alignment loss, on a sample."""
    llm: StageConfig = field(default_factory=lambda: StageConfig(LossWeights(llm=1.0), epochs=1, micro_batch=16))
    """Stage 3: the LLM alone, on another sample."""
    max_failures: int = 3
    """Times that lost workers are replaced before the run gives up."""
    checkpoint_every_s: float = 300.0
    """Seconds between checkpoints; one is also written after each epoch."""

    def __post_init__(self) -> None:
        require_at_least(1, {"train.workers": self.workers, "train.cpus_per_worker": self.cpus_per_worker})
        require_above(0, {"train.gpus_per_worker": self.gpus_per_worker})
        require_at_least(0, {"train.checkpoint_every_s": self.checkpoint_every_s})
        if not 0 <= self.max_failures <= 100:
            raise ConfigError(f"train.max_failures: expected 0 to 100, got {self.max_failures}")


@dataclass(frozen=True)
class Job:
    """All that a training worker needs; travels to it pickled."""

    train: Config
    crm: CrmConfig
    llm: llm_config.Config  # where the LLM starts from
    tables: str
    prompts: str
    max_tokens: int
    seed: int
    gpu: bool = False

    @property
    def stages(self) -> list[Stage]:
        """The stages that train anything, with their samples."""
        all_stages = [
            Stage("warmup", self.train.warmup, artifacts.join(self.tables, "train")),
            Stage("joint", self.train.joint, artifacts.join(self.prompts, "joint")),
            Stage("llm", self.train.llm, artifacts.join(self.prompts, "llm")),
        ]
        return [stage for stage in all_stages if stage.config.epochs > 0]


def run(context: StageContext, job: Job, autoscales: bool = False) -> None:
    """Write the artifact `checkpoints/`: `crm/`, `llm/` and `training_log.jsonl`; goes on where a run of the same fingerprint stopped.

    On a cluster that autoscales, the places for the workers are waited for much longer.
    """
    from ray.train.torch import TorchConfig, TorchTrainer  # imports torch: seconds that a command line should not wait

    job = replace(job, gpu=wants_gpu(job.train))
    require_device(job.train, job.gpu)
    start = newest_whole(context.scratch, job.train.workers, context.progress.say)
    earlier = read_log(start) if start else []
    if start:
        context.progress.say(f"training goes on from {start}, {steps_made(earlier):,} steps were made before")
    context.progress.say(f"starting {job.train.workers} training workers on {'GPUs' if job.gpu else 'CPUs'}")
    start_timeout = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": AUTOSCALED_START_TIMEOUT_S} if autoscales else {}
    for name, value in {**RAY_TRAIN_SETTINGS, **start_timeout}.items():
        os.environ.setdefault(name, str(value))
    store, folder = storage.arrow(context.scratch.rsplit("/", 1)[0])
    monitor = Monitor(context, earlier)
    with Reader(monitor.show) as reader:
        trainer = TorchTrainer(
            work,
            # As bytes: Ray Train's controller would unpickle the job too, and import torch before it starts workers.
            train_loop_config={
                "job": pickle.dumps(job),
                "board": reader.board,
                "run": context.scratch,
                "start": start and _checkpoint_at(start),
            },
            torch_config=TorchConfig(backend="nccl" if job.gpu else "gloo", timeout_s=TORCH_TIMEOUT_S),
            scaling_config=scaling(job.train, job.gpu),
            run_config=RayRunConfig(
                name=context.fingerprint,
                storage_path=folder,
                storage_filesystem=store,
                failure_config=FailureConfig(max_failures=job.train.max_failures, controller_failure_limit=STARTS - 1),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                callbacks=[EndOnMistake()],
            ),
        )
        result = _fit(trainer, job)
    assert result.checkpoint is not None, "the last thing that training does is to report a checkpoint"
    for line in _export(result.checkpoint, context, earlier):
        monitor.show(line)  # nothing new, unless the board was lost


def wants_gpu(config: Config) -> bool:
    """Tell whether to train on GPUs: as configured, or if the cluster has places for all workers with them."""
    return cluster.on_gpus(config.use_gpu, places(config, gpu=True))


def require_device(config: Config, gpu: bool) -> None:
    """Raise ConfigError for what training can't do on GPUs, or without them."""
    config.deepspeed.require_device(gpu)
    if config.sparse_tables and gpu and config.workers > 1:
        raise ConfigError("train.sparse_tables: expected False with several GPU workers, which can't add up sparse gradients, got True")


def places(config: Config, gpu: bool) -> cluster.Need:
    """Return what the workers must find at the same time."""
    gpus = {"GPU": config.gpus_per_worker} if gpu else {}
    return cluster.Need("training workers", config.workers, {"CPU": config.cpus_per_worker, **gpus})


def scaling(config: Config, gpu: bool) -> ScalingConfig:
    """Return the workers and resources that a run asks the cluster for."""
    return ScalingConfig(num_workers=config.workers, use_gpu=gpu, resources_per_worker=places(config, gpu).each)


def work(settings: dict[str, Any]) -> None:
    """Train on one worker (runs inside Ray Train)."""
    try:
        # Here, not above: Ray Train's controller imports this file too, and only workers need what takes seconds to import.
        from pipelines.training_worker import train

        # A disk that is full now is full at the next attempt too: it ends the run, with what this node has free.
        with named_when_full(Path.cwd(), settings["run"]):
            train(pickle.loads(settings["job"]), settings["board"], settings["run"], settings["start"])
    except Exception as error:
        error.add_note(traceback.format_exc())  # Ray hands an error over without its traceback
        raise


def _fit(trainer: TorchTrainer, job: Job) -> Result:
    """Train; what goes wrong is raised as what it is."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit as stopped:  # Ray's answer to Ctrl-C, with exit code 0
        raise KeyboardInterrupt from stopped
    except ControllerError as error:
        failure = error.controller_failure
        if isinstance(failure, MISTAKES):
            raise failure from None
        if type(failure).__name__.startswith("WorkerGroupStartup"):  # not exported by Ray
            places = f"{job.train.workers} x {trainer.scaling_config.resources_per_worker}"
            raise ResourceError(f"training could not start: expected places for {places}: {failure}") from error
        raise TandemError(f"training stopped: {failure}") from error
    except WorkerGroupError as error:  # workers were lost once more than the job allows
        raise TandemError(f"training stopped after {job.train.max_failures} restarts: {error}") from error
    except TrainingFailedError as error:
        raise TandemError(f"training stopped: {error}") from error
    finally:
        signal.signal(signal.SIGINT, on_interrupt)  # Ray's handler would outlive the training


def _checkpoint_at(uri: str) -> Checkpoint:
    store, path = storage.arrow(uri)
    return Checkpoint(path, store)  # made once: the workers of a node then share what they fetch of it


def _export(checkpoint: Checkpoint, context: StageContext, earlier: Sequence[Line]) -> list[Line]:
    """Copy the trained models and the log from the last checkpoint into the artifact; return the log. `earlier` is a broken attempt's."""
    with checkpoint.as_directory() as folder:
        fs, path = storage.filesystem(context.folder)
        fs.put(f"{Path(folder) / 'models'}/", f"{path}/", recursive=True)
        fs.put(str(Path(folder) / "training_log.jsonl"), f"{path}/training_log.jsonl")
        position = Position.from_json((Path(folder) / "position.json").read_text())
        own_seconds = json.loads((Path(folder) / OWN_SECONDS).read_text())
        log = read_log(folder)
    # The rate is that of this attempt, like the seconds beside it.
    context.facts.update(best=position.best, work=(steps_made(log) - steps_made(earlier), "steps"), own_seconds=own_seconds)
    return log
