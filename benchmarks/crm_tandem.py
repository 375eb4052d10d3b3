"""Tandem's side of the CRM's benchmarks, told and answering like its peers (`benchmarks/peers/run_*.py`): our training loop and scoring."""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from components import metrics
from components.crm import Crm, CrmConfig, build
from components.crm.dcnv2 import Dcnv2
from components.crm.fold_in import FoldIn
from components.features.reader import Share
from components.features.store import HISTORY_NUMBERS, FeatureStore
from components.features.tables import count_rows, load_store, read_samples
from components.joint.crm_files import score_crm
from components.joint.engine import ParameterGroup, TorchEngine
from components.joint.model import JointModel, LossWeights
from components.joint.plan import ModelName, Stage, StageConfig
from components.joint.training import Line, Surroundings, Training, load_weights
from components.llm.tokens import TokenLayout
from components.memory import keep_freed_memory

_scorer: Scorer  # of a process of the pool


def crm_config(job: Mapping[str, Any]) -> CrmConfig:
    """Return the shape that every peer can build: embeddings of single values, cross layers beside a tower, nothing else."""
    return CrmConfig(
        embedding_size=job["embedding_size"],
        history="none",
        fold_in=FoldIn.Config(size=0),
        ignored=("genres", *HISTORY_NUMBERS),
        dropout=0.0,
        unknown_rate=0.0,
        user_unknown_rate=0.0,
        precision=job["precision"],
        dcnv2=Dcnv2.Config(job["cross_layers"], hidden_sizes=tuple(job["hidden_sizes"])),
    )


class Clock:
    """Seconds between lines of the training log: each epoch ends with one, and with another when it is validated."""

    def __init__(self) -> None:
        self.train_s, self._last_s = 0.0, time.perf_counter()

    def line(self, line: Line) -> None:
        now_s = time.perf_counter()
        self.train_s += now_s - self._last_s if "steps" in line else 0.0
        self._last_s = now_s


def train(job: Mapping[str, Any], tables: Path, share: Share) -> tuple[Crm, dict[str, float]]:
    """Train as the pipeline's first stage does, as one of its workers, which share a batch."""
    started_s, clock = time.perf_counter(), Clock()
    config, store = crm_config(job), load_store(str(tables))
    store = store if config.reads_history else store.without_history()
    weights = LossWeights(crm=1.0)
    rates: dict[str, Any] = {"crm_learning_rate": job["learning_rate"], "schedule": "constant", "warmup_share": 0.0}
    stage = Stage(
        "warmup", StageConfig(weights, job["epochs"], job["batch"] // share.workers, patience=job["epochs"], **rates), str(tables / "train")
    )
    rows = count_rows(stage.samples_uri)

    def make(_: ModelName) -> Crm:
        torch.manual_seed(job["seed"])
        return build(config, store.inputs)

    def engine(_: Stage, models: Mapping[ModelName, nn.Module]) -> TorchEngine:
        group = ParameterGroup(list(models["crm"].parameters()), job["learning_rate"])
        return TorchEngine(JointModel(models["crm"], None, None, weights), [group], "cpu", 1.0, sparse_tables=False)

    def no_checkpoint(write: Callable[[Path], None]) -> None:
        pass

    around = Surroundings(share, clock.line, no_checkpoint, float("inf"), log_every_steps=rows // job["batch"])
    layout = cast(TokenLayout, None)  # no LLM here
    training = Training([stage], make, engine, store, layout, {"crm": str(tables / "valid")}, job["seed"], around)
    training.run()
    crm = make("crm")
    load_weights(crm, training.best_weights["crm"])
    steps = sum(int(line["step"]) for line in training.log[-2:] if "steps" in line)
    seen = steps * (job["batch"] // share.workers) * share.workers
    return crm, {"train_rate": seen / clock.train_s, "whole_s": time.perf_counter() - started_s}


def train_together(job: Mapping[str, Any], tables: Path) -> tuple[Crm, dict[str, float]]:
    """Train on as many workers as threads are given, each with one, as the pipeline does; return what the first one has."""
    if job["threads"] == 1:
        return train(job, tables, Share())
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (job, tables, Path(folder)), nprocs=job["threads"])
        answer = json.loads(Path(folder, "answer.json").read_text())
        crm = build(crm_config(job), load_store(str(tables)).inputs)
        crm.load_state_dict(torch.load(Path(folder, "crm.pt"), weights_only=True))
    return crm, answer


def _work(rank: int, job: Mapping[str, Any], tables: Path, folder: Path) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    workers = job["threads"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
    crm, answer = train(job, tables, Share(rank, workers))
    if rank == 0:
        torch.save(crm.state_dict(), folder / "crm.pt")
        (folder / "answer.json").write_text(json.dumps(answer))
    torch.distributed.destroy_process_group()


def score_rows(job: Mapping[str, Any], crm: Crm, store: FeatureStore, uri: str) -> np.ndarray:
    """Score samples as the pipeline's stage does, block by block; of the columns, read those that the model reads."""
    samples = read_samples(uri, (store if crm.inputs.reads_history else store.without_history()).sample_columns)
    blocks = [samples.slice(start, job["score_batch"]) for start in range(0, samples.num_rows, job["score_batch"])]
    return np.concatenate([score_crm(crm, store, block)["p_crm"] for block in blocks])


class Scorer:
    """A process that scores with an untrained model, file by file, as one of the stage's tasks."""

    def __init__(self, job: Mapping[str, Any], tables: Path) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)
        self._job, self._store = job, load_store(str(tables))
        self._crm = build(crm_config(job), self._store.inputs).eval()

    def score(self, file: Path) -> np.ndarray:
        return score_rows(self._job, self._crm, self._store, str(file))


def score_rate(job: Mapping[str, Any], tables: Path) -> float:
    """Return rows/s of scoring all of train in as many processes as threads are given."""
    files = sorted((tables / "train").glob("*.parquet"))
    if job["threads"] == 1:
        scorer, started_s = Scorer(job, tables), time.perf_counter()
        rows = sum(len(scorer.score(file)) for file in files)
        return rows / (time.perf_counter() - started_s)
    context = multiprocessing.get_context("spawn")
    loaded = context.Barrier(job["threads"] + 1)
    with context.Pool(job["threads"], _start, (job, tables, loaded)) as pool:
        loaded.wait()
        started_s = time.perf_counter()
        return sum(map(len, pool.imap_unordered(_score, files))) / (time.perf_counter() - started_s)


def _start(job: Mapping[str, Any], tables: Path, loaded: Barrier) -> None:
    global _scorer
    _scorer = Scorer(job, tables)
    loaded.wait()


def _score(file: Path) -> np.ndarray:
    return _scorer.score(file)


def main() -> None:
    job = json.loads(sys.argv[1])
    keep_freed_memory()  # as our workers do
    torch.set_num_threads(job["threads"])
    tables, answer = Path(job["folder"]) / "tables", dict[str, float]()
    if job["epochs"]:
        crm, answer = train_together(job, tables)
        label = read_samples(str(tables / "test"), ["label"])["label"].to_numpy()
        answer["auc"] = metrics.auc(label, score_rows(job, crm.eval(), load_store(str(tables)), str(tables / "test")))
    if job["score"]:
        answer["score_rate"] = score_rate(job, tables)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
