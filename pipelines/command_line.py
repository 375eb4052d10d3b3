"""The command line: what the user types becomes a configuration; what is planned and what came out is shown."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tyro.extras import overridable_config_cli

from components import artifacts, storage
from components.datasets.demo import Demo
from components.errors import ConfigError
from components.joint.deepspeed_engine import deepspeed_config
from components.llm import config as llm_config
from components.llm.config import TINY
from components.report.summary import summary_table
from pipelines import cluster
from pipelines.config import RunConfig
from pipelines.prompts import CPUS_PER_WORKER
from pipelines.recipes import RECIPES
from pipelines.recording import store_of
from pipelines.score import CPUS_PER_CRM_ACTOR
from pipelines.train import places

# As `make mlflow`: MLflow asks nobody who they are.
MLFLOW_SETTINGS = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false"
MLFLOW_ACCESS = "--host 127.0.0.1 --port 5000 --allowed-hosts localhost:5000,127.0.0.1:5000"
JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it in a submitted job
DESCRIPTION = "Raw interactions -> a tuned, evaluated, browsable ensemble of a recommender model and a language model."


def parse(arguments: Sequence[str] | None) -> RunConfig:
    """Return the recipe's configuration with the keys that were typed; a bad command line exits with 2."""
    recipes = {name: ((recipe.__doc__ or "").strip(), recipe()) for name, recipe in RECIPES.items()}
    config = overridable_config_cli(recipes, prog="pipelines/full.py", description=DESCRIPTION, args=arguments)
    config = replace(config, output=config.output or f"runs/{config.recipe}")
    _refuse_relative_in_job(config)
    if not config.data and not isinstance(config.dataset, Demo.Config):
        raise ConfigError("--data: expected the folder or URI of the raw files, got none")
    _require_llm(config.llm)
    # Workers have another working folder.
    llm = replace(config.llm, path=_absolute(config.llm.path)) if Path(config.llm.path).is_dir() else config.llm
    return replace(config, output=_absolute(config.output or ""), data=config.data and _absolute(config.data), llm=llm)


def _require_llm(llm: llm_config.Config) -> None:
    """Raise ConfigError for a model that can't be loaded, before a stage runs that only comes to it later."""
    if llm.path == TINY or Path(llm.path).is_dir() or llm.revision:
        return
    if storage.is_uri(llm.path):
        if not storage.exists(llm.path):
            raise ConfigError(f"llm.path: expected a folder with a model, there is none at {llm.path}")
        return
    if llm.path.startswith(("/", ".", "~")):
        raise ConfigError(f"llm.path: expected a hub id or a local folder, there is none at {llm.path}")
    raise ConfigError(f"llm.revision: expected the commit (40 hex digits) of {llm.path}, which is no local folder, got none")


def _absolute(uri: str) -> str:
    """Return a local path as an absolute one, other URIs as they are."""
    return uri if storage.is_uri(uri) else str(Path(uri).absolute())


def show_plan(config: RunConfig, output: str, steps: Sequence[tuple[str, bool]]) -> None:
    """Print what a run would do, and whether the cluster has what it asks for."""
    print(f"Plan of {config.recipe} -> {output}")
    for name, done in steps:
        print(f"  {name:<12}{'reused: finished by an earlier run' if done else 'to run'}")
    train = config.train
    for name, stage in (("joint", train.joint), ("llm", train.llm)):
        print(f"DeepSpeed, stage {name}:")
        print(json.dumps(deepspeed_config(train.deepspeed, stage.micro_batch, stage.accumulation, train.workers), indent=2))
    print("Resources:")
    stages = {stage: wanted for stage, wanted in needs(config).items() if (stage, False) in steps}
    for stage, wanted in stages.items():
        print(f"  {stage}: " + ", ".join(f"{need.what} {need.count} x {need.each}" for need in wanted))
    lacking = [line for wanted in stages.values() for line in cluster.lacking(wanted)]
    print(f"  the cluster has {cluster.described()}: " + ("enough" if not lacking else "NOT enough: " + "; ".join(lacking)))


def needs(config: RunConfig) -> dict[str, list[cluster.Need]]:
    """Return what each stage asks the cluster for."""
    score = config.score
    by_llm = {"CPU": score.cpus_per_actor, "GPU": score.gpus_per_actor}
    return {
        "tables": [cluster.Need("tasks", 1, {"CPU": 1.0})],
        "prompts": [cluster.Need("workers that render prompts", 1, {"CPU": CPUS_PER_WORKER})],
        "checkpoints": [places(config.train, gpu=config.train.use_gpu == "yes")],
        "scores": [
            cluster.Need("LLM scoring actors", score.llm_actors, by_llm),
            cluster.Need("CRM scoring actors", score.crm_actors, {"CPU": CPUS_PER_CRM_ACTOR}),
            cluster.DATA_TASKS,
        ],
        "policy": [cluster.Need("trials", 1, {"CPU": config.tune.cpus_per_trial})],
    }


def local_folders(config: RunConfig) -> list[str]:
    """Return what a run reads and writes on a disk, which every node must see; the run makes its output folder first."""
    model = config.llm.path if storage.is_uri(config.llm.path) or Path(config.llm.path).is_absolute() else None  # else a hub id
    found = [storage.filesystem(place) for place in (config.output, config.data, model) if place]
    return [path for fs, path in found if storage.is_local(fs)]


def show_result(config: RunConfig, output: str) -> None:
    """Print what came out, and the commands for the next steps."""
    metrics = artifacts.read_json(artifacts.join(output, "report", "metrics.json"))
    print(summary_table(metrics))
    print(f"report: {artifacts.join(output, 'report', 'index.html')}")
    print(f"runs in MLflow: {_mlflow(storage.without_credentials(store_of(config, output)))}")
    python = shlex.quote(sys.executable)
    print(f"serve it: {python} -m serving.local --model {shlex.quote(output)}")
    if metrics["synthetic"]:
        print(f"on real data: {python} pipelines/full.py ml-100k --data FOLDER_OF_ML_100K")


def _mlflow(store: str) -> str:
    """Return where the runs of a store are seen, or the command that shows them."""
    if store.startswith("http"):
        return store
    program = shlex.quote(str(Path(sys.executable).with_name("mlflow")))
    return f"{MLFLOW_SETTINGS} {program} ui --backend-store-uri {shlex.quote(store)} {MLFLOW_ACCESS}"


def _refuse_relative_in_job(config: RunConfig) -> None:
    """Inside a job the working folder is an uploaded copy that goes away: what is written there is lost."""
    if JOB_MARK not in os.environ:
        return
    for key, value in (("data", config.data), ("output", config.output)):
        relative = value is not None and not storage.is_uri(value) and not Path(value).is_absolute()
        if relative and not Path(value or "").exists():
            raise ConfigError(
                f"--{key} {value}: inside a job the working folder is an uploaded copy; "
                "expected an absolute path, a URI, or something in the upload"
            )
