"""The command line: what the user types becomes a configuration; what is planned and what came out is shown."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tyro.extras import overridable_config_cli

from components import artifacts, storage
from components.crm import CrmConfig
from components.datasets.demo import Demo
from components.datasets.movielens import MovieLens100k
from components.errors import ConfigError, causes
from components.joint.deepspeed_engine import deepspeed_config
from components.llm import config as llm_config
from components.llm.config import TINY
from components.report.summary import summary_table
from pipelines import cluster, score, train
from pipelines.config import RunConfig
from pipelines.prompts import CPUS_PER_WORKER
from pipelines.recipes import RECIPES
from pipelines.recording import store_of

# As `make mlflow`: MLflow asks nobody who they are.
MLFLOW_SETTINGS = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false"
MLFLOW_ACCESS = "--host 127.0.0.1 --port 5000 --allowed-hosts localhost:5000,127.0.0.1:5000"
JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it in a submitted job
ENOUGH_FOR_IDS = 1_000_000  # training rows from which on vectors of ids say more than they memorise (ours)
DESCRIPTION = "Raw interactions -> a tuned, evaluated, browsable ensemble of a recommender model and a language model."


def parse(arguments: Sequence[str] | None) -> RunConfig:
    """Return the recipe's configuration with the keys that were typed; a bad command line exits with 2."""
    config = _typed(arguments)
    config = replace(config, output=config.output or f"runs/{config.recipe}")
    _require_finite(artifacts.as_plain(config))
    _refuse_relative_in_job(config)
    if not has_data(config) and not config.dry_run:
        raise ConfigError("--data: expected the folder or URI of the raw files, got none")
    _require_llm(config.llm)
    # Workers have another working folder.
    llm = replace(config.llm, path=_absolute(config.llm.path)) if Path(config.llm.path).is_dir() else config.llm
    return replace(config, output=_absolute(config.output or ""), data=config.data and _absolute(config.data), llm=llm)


def has_data(config: RunConfig) -> bool:
    """Tell whether raw data was named, or is made."""
    return bool(config.data) or isinstance(config.dataset, Demo.Config)


def _typed(arguments: Sequence[str] | None) -> RunConfig:
    """Return the recipe's configuration with the keys that were typed; raises ConfigError for a value that a Config refuses."""
    recipes = {name: ((recipe.__doc__ or "").strip(), recipe()) for name, recipe in RECIPES.items()}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return overridable_config_cli(recipes, prog="pipelines/full.py", description=DESCRIPTION, args=arguments)
    except SystemExit as left:
        refused = next((error for error in causes(left) if isinstance(error, ConfigError)), None)
        if refused is None:
            print(printed.getvalue(), end="", file=sys.stderr)
            raise
        # Where tyro was when it was refused, in its own words: "__tyro-dummy-inner__.train.joint"; of the whole, the class.
        places = [str(getattr(error, "arg", "")) for error in causes(left)]
        part = next((place.partition(".")[2] for place in places if place.startswith("__")), "").replace("-", "_")
    raise ConfigError(_whole_key(part, str(refused)))


def _whole_key(part: str, said: str) -> str:
    """Complete the key with which an error begins ("epochs: ...", "joint.epochs: ...") by the part of the configuration that it is in."""
    names = part.split(".") if part else []
    starts = [start for start in range(len(names)) if said.startswith(tuple(".".join(names[start:]) + end for end in ".:"))]
    return ".".join([*names[: starts[0] if starts else len(names)], said])


def _require_finite(value: Any, key: str = "") -> None:
    """Raise ConfigError for a number that is none: no comparison with a bound finds it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}: expected a finite number, got {value}")
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _require_finite(item, f"{key}.{name}" if key else str(name))


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
    trained = config.train
    for name, stage in (("joint", trained.joint), ("llm", trained.llm)):
        print(f"DeepSpeed, stage {name}:")
        print(json.dumps(deepspeed_config(trained.deepspeed, stage.micro_batch, stage.accumulation, trained.workers), indent=2))
    print("Resources:")
    stages = {stage: wanted for stage, wanted in needs(config).items() if (stage, False) in steps}
    for stage, wanted in stages.items():
        print(f"  {stage}: " + ", ".join(f"{need.what} {need.count} x {need.each}" for need in wanted))
    lacking = [line for wanted in stages.values() for line in cluster.lacking(wanted)]
    print(f"  the cluster has {cluster.described()}: " + ("enough" if not lacking else "NOT enough: " + "; ".join(lacking)))


def advice(crm: CrmConfig, training_rows: int) -> str:
    """Return what to change where there are rows enough for what a recommender made for small data does not read; else nothing."""
    ids = [name for name in ("user_id", "item_id") if name in crm.ignored]
    left_out = [*ids, *(["the items of the history"] if crm.history == "none" else [])]
    if not left_out or training_rows < ENOUGH_FOR_IDS:
        return ""
    keys = [*(["--crm.history rated"] if crm.history == "none" else [])]
    keys += [" ".join(["--crm.ignored", *(name for name in crm.ignored if name not in ids)])] if ids else []
    return f"{training_rows:,} training rows, and the CRM does not read {', '.join(left_out)}; it would with {' '.join(keys)}"


def needs(config: RunConfig) -> dict[str, list[cluster.Need]]:
    """Return what each stage asks the cluster for."""
    return {
        "tables": [cluster.Need("tasks", 1, {"CPU": 1.0})],
        "prompts": [cluster.Need("workers that render prompts", 1, {"CPU": CPUS_PER_WORKER})],
        "checkpoints": [train.places(config.train, gpu=train.wants_gpu(config.train))],
        "scores": [
            score.places(config.score, gpu=score.wants_gpu(config.score)),
            cluster.Need("CRM scoring actors", config.score.crm_actors, {"CPU": score.CPUS_PER_CRM_ACTOR}),
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
    # A job runs from a copy of the code that goes away.
    in_job = JOB_MARK in os.environ
    python = "python" if in_job else shlex.quote(sys.executable)
    print(f"serve it: {python} -m serving.local --model {shlex.quote(output)}")
    if metrics["synthetic"]:
        program = "pipelines/full.py" if in_job else shlex.quote(str(Path(__file__).with_name("full.py").absolute()))
        print(f"on real data (ml-100k.zip of {MovieLens100k.URL}, unpacked): {python} {program} ml-100k --data FOLDER_OF_ML_100K")


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
