"""Evaluate: the test part of the score table and the policy -> figures, routes and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd

from components import artifacts, storage
from components.errors import ArtifactError
from components.features.tables import dataset, read_frame, read_scores, write_frame
from components.report.evaluation import Config, RunFacts, Search, evaluate
from components.report.page import render
from components.report.summary import summary_table
from components.routing.policy import Policy
from pipelines.stage import StageContext

__all__ = ["Config", "run", "summary_table"]

Stages = Mapping[str, Mapping[str, Any]]


def run(context: StageContext, config: Config, recipe: str, stages: Stages, settings: Any) -> None:
    """Write the artifact `report/`: `index.html`, `metrics.json`, `test_routes.parquet` and the figures.

    `stages` are the earlier stages' {"seconds", "rate", "unit"} by name, `settings` is the run's whole configuration, which
    the report shows.
    """
    from components.report.figures import figures  # matplotlib: a second that a command line should not wait

    started_s = time.monotonic()
    valid, test = (read_scores(context.artifact("scores"), split) for split in ("valid", "test"))
    context.progress.say(f"judging the policy on {len(test):,} test rows")
    facts = _facts(context.artifact("tables"), recipe, stages)
    evaluation = evaluate(valid, test, _search(context.artifact("policy")), facts, config)
    log = _training_log(artifacts.join(context.artifact("checkpoints"), "training_log.jsonl"))
    drawn = figures(evaluation.metrics, log)
    taken_s = time.monotonic() - started_s  # nearly all of this stage: what follows writes what is known
    mine = {"seconds": taken_s, "rate": len(test) / max(taken_s, 1e-9), "unit": "samples/s"}
    metrics = {**evaluation.metrics, "stages": {**evaluation.metrics["stages"], "report": mine}}
    _write(context, metrics, evaluation.routes, drawn, render(metrics, drawn, settings))
    context.facts["test"] = evaluation.metrics["test"]


def _facts(tables: str, recipe: str, stages: Stages) -> RunFacts:
    """Collect what the report says of the data and of the stages."""
    known = artifacts.require(tables).facts
    schema = artifacts.read_json(artifacts.join(tables, "features.json"))["schema"]
    return RunFacts(
        recipe=recipe,
        synthetic=schema["synthetic"],
        rows=known["rows"],
        label_rate={split: _label_rate(artifacts.join(tables, split)) for split in known["rows"]},
        quarantine=known["quarantine"],
        stages=stages,
        best_auc=known.get("best_auc"),
    )


def _label_rate(samples: str) -> float:
    rows, clicks = 0, 0
    for batch in dataset(samples).to_batches(columns=["label"]):
        rows += batch.num_rows
        clicks += int(batch["label"].to_numpy().sum())
    return clicks / rows if rows else float("nan")


def _search(policy: str) -> Search:
    """Read what the finished search left."""
    artifacts.require(policy)
    chosen, at_shares, said = (artifacts.read_json(artifacts.join(policy, f"{name}.json")) for name in ("policy", "at_shares", "search"))
    if not {"sentence", "gain"} <= set(said) or not at_shares:
        raise ArtifactError(
            f"{policy}: expected sentence and gain in search.json and a share in at_shares.json, got {list(said)} and {list(at_shares)}"
        )
    return Search(
        policy=Policy.from_json(chosen),
        policies={float(share): Policy.from_json(value) for share, value in at_shares.items()},
        pareto=read_frame(artifacts.join(policy, "pareto.parquet")),
        trials=len(read_frame(artifacts.join(policy, "trials.parquet"))),
        sentence=said["sentence"],
        gain=said["gain"],
    )


def _write(context: StageContext, metrics: Mapping[str, Any], routes: pd.DataFrame, drawn: Mapping[str, bytes], page: str) -> None:
    """Write everything that `report/` holds."""
    artifacts.write_json(artifacts.join(context.folder, "metrics.json"), metrics)
    write_frame(routes, artifacts.join(context.folder, "test_routes.parquet"))
    for name, content in {**{f"figures/{name}.svg": svg for name, svg in drawn.items()}, "index.html": page.encode()}.items():
        with storage.open_file(artifacts.join(context.folder, name), "wb") as file:
            file.write(content)


def _training_log(uri: str) -> list[dict[str, Any]]:
    """Return the lines of the training log; a run without training has none."""
    fs, path = storage.filesystem(uri)
    return [json.loads(line) for line in fs.cat_file(path).splitlines() if line.strip()] if fs.exists(path) else []
