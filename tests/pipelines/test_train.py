"""Training on a real Ray Train, with a worker killed in the middle; and what of it can be told without Ray."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from safetensors.torch import load_file

from components.errors import ConfigError, DiskFullError, ResourceError, TandemError
from components.features.reader import Share
from components.joint import alignment, deepspeed_engine
from components.joint.crm_files import load_crm
from components.joint.training import Surroundings
from components.joint.workbench import Workbench
from components.llm import backbone
from pipelines import train
from pipelines.mistakes import EndOnMistake
from pipelines.stage import StageContext
from pipelines.training_worker import parts_of
from tests.components.joint import prepared, runs, worlds
from tests.pipelines.local_ray import local_ray

WORKER = "ray::RayTrainWorker"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepared.make(folder)
    return folder


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with local_ray():
        yield


def job(data: Path, **keys: Any) -> train.Job:
    """Two workers; 24 steps of warm-up, 96 joint ones, 48 of the LLM alone; checkpoints every 20 steps and every epoch."""
    warmup, joint, llm = (stage.config for stage in runs.stages(data, workers=2))
    small = {
        "warmup": replace(warmup, micro_batch=8),
        "joint": replace(joint, micro_batch=1, accumulation=1),
        "llm": replace(llm, micro_batch=1),
    }
    fixed = {"deepspeed": deepspeed_engine.Config(precision="fp32"), "alignment": alignment.Config(width=4), "checkpoint_every_s": 0.0}
    config = train.Config(workers=2, **{**small, **fixed, **keys})
    model = backbone.Config(path=str(data / "backbone"))
    return train.Job(config, runs.CRM, model, str(data / "tables"), str(data / "prompts"), prepared.MAX_TOKENS, seed=5)


class Watched:
    """A stage's surroundings that note what is shown, and what workers there have been."""

    def __init__(self, output: Path) -> None:
        self.said: list[str] = []
        self.figures: list[tuple[str, int]] = []
        self.workers: set[int] = set()
        self.blows: dict[str, Callable[[psutil.Process], object]] = {}  # what is done to a worker when this figure is first seen
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        progress: Any = SimpleNamespace(say=self.said.append, update=lambda *_: None)
        self.context = StageContext(str(output), str(output / "checkpoints"), "0123456789abcdef", progress, self.on_metrics, {})

    def on_metrics(self, figures: Mapping[str, float], step: int) -> None:
        self.figures += [(name, step) for name in figures]
        running = self.running()
        self.workers |= {process.pid for process in running}
        for name in self.blows.keys() & figures.keys():
            self.blows.pop(name)(running[-1])

    @staticmethod
    def running() -> list[psutil.Process]:
        """Training workers below this very process."""
        found: list[psutil.Process] = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may end while it is looked at
                found += [process] if WORKER in "".join(process.cmdline()) else []
        return found


def unbroken(rank: int, workers: int, wanted: train.Job) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the same job without Ray."""
    around = Surroundings(Share(rank, workers), lambda line: None, lambda write: None, checkpoint_every_s=1e9)
    training = Workbench(parts_of(wanted), "cpu").training(wanted.stages, around)
    training.run()
    return training.log, {name: {key: value.numpy() for key, value in weights.items()} for name, weights in training.best_weights.items()}


@pytest.mark.ray
@pytest.mark.faults  # a minute each; test_broken_runs kills a worker too
@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_of_a_full_disk_and_killed_and_frozen_workers_ends_as_if_nothing_had_been(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    first = Watched(tmp_path)
    first.blows = {"warmup/train_loss": lambda worker: worker.rlimit(psutil.RLIMIT_FSIZE, (1000, 1000))}
    with pytest.raises(DiskFullError, match=rf"no room for what is written: .*; free are [\d,]+ bytes in .* bytes in {tmp_path}"):
        train.run(first.context, job(data))
    assert len(first.workers) == 2  # no other one was started, which would have met the same disk

    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "8")
    watched = Watched(tmp_path)
    watched.blows = {"joint/train_loss": psutil.Process.kill}
    if frozen:
        watched.blows["llm/train_loss"] = psutil.Process.suspend
    train.run(watched.context, job(data))

    assert watched.said[0].startswith("training goes on from")
    assert not watched.blows
    assert len(watched.workers) >= (6 if frozen else 4)  # two, two in the place of the killed one's group, two of the frozen one's
    log = [json.loads(line) for line in (tmp_path / "checkpoints" / "training_log.jsonl").read_text().splitlines()]
    expected, weights = worlds.run(2, unbroken, job(data))[0]
    assert [(line["stage"], line["step"], "steps" in line) for line in log] == [
        (line["stage"], line["step"], "steps" in line) for line in expected
    ]
    for line, other in zip(log, expected, strict=True):
        assert line == {name: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value for name, value in other.items()}
    assert len(watched.figures) == len(set(watched.figures))  # nothing is shown twice

    crm = load_crm(str(tmp_path / "checkpoints" / "crm"), Workbench(parts_of(job(data)), "cpu").store.inputs)
    for name, value in crm.state_dict().items():
        torch.testing.assert_close(value, torch.from_numpy(weights["crm"][name]), rtol=0, atol=1e-6)
    llm = load_file(tmp_path / "checkpoints" / "llm" / "model.safetensors")
    for name, value in weights["llm"].items():
        torch.testing.assert_close(llm[name.removeprefix("language_model.")], torch.from_numpy(value), rtol=0, atol=1e-6)
    assert watched.context.facts["work"][0] < 24 + 96 + 48  # those before the disk was full count to the first attempt
    assert set(watched.context.facts["best"]) == {"crm", "llm"}
    kept = list((tmp_path / ".scratch").glob("*/checkpoint_[0-9]*"))  # until the artifact stands
    assert 1 <= len(kept) <= 2  # that of the first attempt is not among them
    watched.context.clear_scratch()
    assert not (tmp_path / ".scratch").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_a_mistake_ends_the_run_at_once_and_is_raised_as_what_it_is(data: Path, tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            watched.workers.update(process.pid for process in watched.running())

    looking = threading.Thread(target=look)
    looking.start()
    on_interrupt = signal.getsignal(signal.SIGINT)
    wanted = job(data)
    wanted = replace(
        wanted, train=replace(wanted.train, warmup=replace(wanted.train.warmup, epochs=0), alignment=alignment.Config(((9, 0),)))
    )
    with pytest.raises(ConfigError, match=r"expected LLM blocks 0 to 1 and CRM layers 0 to 2, got \(9, 0\)") as raised:
        train.run(watched.context, wanted)
    done.set()
    looking.join()
    assert len(watched.workers) == 2  # none was replaced
    assert "workbench.py" in raised.value.__notes__[0]  # where it happened
    assert signal.getsignal(signal.SIGINT) is on_interrupt


class Failing:
    """A trainer that fails as it is told."""

    scaling_config = SimpleNamespace(resources_per_worker={"CPU": 64})

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def fit(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Ray does, and leaves it so
        raise self._error


class WorkerGroupStartupTimeoutError(Exception):
    """Stands for Ray's, which has no public name."""


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (ControllerError(ConfigError("no such block")), ConfigError, "^no such block$"),
        (ControllerError(AssertionError("weights do not fit")), AssertionError, "weights do not fit"),
        (ControllerError(WorkerGroupStartupTimeoutError("300 s")), ResourceError, r"expected places for 2 x \{'CPU': 64\}: 300 s"),
        (ControllerError(RuntimeError("disk")), TandemError, "training stopped: disk"),
        (WorkerGroupError("rank 1 died", {1: RuntimeError("rank 1 died")}), TandemError, "(?s)stopped after 3 restarts: .*rank 1 died"),
        (TrainingFailedError("what else"), TandemError, "^training stopped: what else$"),
        (SystemExit(0), KeyboardInterrupt, "^$"),  # Ray's answer to Ctrl-C would be taken for success
    ],
)
def test_what_ends_training_is_raised_as_what_it_is(data: Path, failure: BaseException, expected: type, message: str) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    trainer: Any = Failing(failure)
    with pytest.raises(expected, match=message):
        train._fit(trainer, job(data))
    assert signal.getsignal(signal.SIGINT) is on_interrupt


@pytest.mark.parametrize("error", [ConfigError("x"), AssertionError("x"), KeyError("x"), TypeError("x")])
def test_a_mistake_of_one_worker_ends_the_run(error: Exception) -> None:
    with pytest.raises(type(error)):
        EndOnMistake().after_exception(None, {0: RuntimeError("Connection closed by peer"), 1: error})


@pytest.mark.parametrize("error", [RuntimeError("Connection closed by peer"), OSError("No space left"), torch.OutOfMemoryError("x")])
def test_what_another_attempt_may_be_spared_is_left_to_ray(error: Exception) -> None:
    told = EndOnMistake().after_exception(None, {0: error})  # a mistake is raised here, and ends the run
    assert told is None


def test_a_job_and_its_errors_travel_pickled(data: Path) -> None:
    assert pickle.loads(pickle.dumps(job(data))) == job(data)
    error = pickle.loads(pickle.dumps(ConfigError("expected this, got that")))
    assert str(error) == "expected this, got that"


def test_stages_without_epochs_are_left_out(data: Path) -> None:
    wanted = job(data)
    short = replace(wanted, train=replace(wanted.train, joint=replace(wanted.train.joint, epochs=0)))
    assert [stage.name for stage in wanted.stages] == ["warmup", "joint", "llm"]
    assert [stage.name for stage in short.stages] == ["warmup", "llm"]
    assert wanted.stages[0].samples_uri == str(data / "tables" / "train")
    assert wanted.stages[2].samples_uri == str(data / "prompts" / "llm")


def test_workers_ask_for_gpus_only_where_they_are_used() -> None:
    config = train.Config(workers=3, cpus_per_worker=2, gpus_per_worker=0.5)
    without, with_ = train.scaling(config, gpu=False), train.scaling(config, gpu=True)
    assert (without.num_workers, without.use_gpu, without.resources_per_worker) == (3, False, {"CPU": 2})
    assert (with_.use_gpu, with_.resources_per_worker) == (True, {"CPU": 2, "GPU": 0.5})


@pytest.mark.parametrize(
    "keys",
    [
        {"workers": 0},
        {"cpus_per_worker": 0},
        {"gpus_per_worker": 0.0},
        {"max_failures": -1},
        {"max_failures": 101},
        {"checkpoint_every_s": -1.0},
    ],
)
def test_an_impossible_configuration_is_refused(keys: dict) -> None:
    with pytest.raises(ConfigError, match=rf"^train\.{next(iter(keys))}: expected "):
        train.Config(**keys)


@pytest.mark.parametrize(("autoscales", "start_s"), [(False, 300), (True, 3600)], ids=["nodes there", "nodes to come"])
def test_waiting_is_bounded_and_a_users_own_bounds_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path, autoscales: bool, start_s: int
) -> None:
    monkeypatch.setenv("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "7")
    monkeypatch.delenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", raising=False)
    trainers: list[Any] = []

    def stop(trainer: Any, _: train.Job) -> None:
        trainers.append(trainer)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_fit", stop)
    monkeypatch.setattr("ray.train.torch.TorchTrainer", lambda work, **keys: SimpleNamespace(**keys))
    monkeypatch.setattr(train, "Reader", lambda show: contextlib.nullcontext(SimpleNamespace(board=None)))
    wanted = job(data)
    with pytest.raises(KeyboardInterrupt):
        train.run(Watched(tmp_path).context, replace(wanted, train=replace(wanted.train, use_gpu="no")), autoscales)
    failures = trainers[0].run_config.failure_config
    assert failures.max_failures == 3
    assert failures.controller_failure_limit == 1  # a place for all workers is waited for twice, not for ever
    assert os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] == "7"
    assert float(os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) == start_s
