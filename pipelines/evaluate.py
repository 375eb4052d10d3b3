"""Evaluate: the test part of the score table and the policy -> figures, routes and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import fsspec
import pandas as pd

from components import artifacts
from components.artifacts import Manifest
from components.errors import ArtifactError
from components.features.tables import dataset, read_frame, read_samples
from components.report.evaluation import Config, Evaluation, RunFacts, Search, evaluate
from components.report.figures import figures
from components.report.page import render
from components.report.summary import summary_table
from components.routing.policy import Policy
from pipelines.stage import StageContext

__all__ = ["Config", "run", "summary_table"]

STAGES = ("tables", "backbone", "prompts", "checkpoints", "scores", "policy")  # whose manifests the report reads, as far as they are there


def run(context: StageContext, config: Config, recipe: str) -> None:
    """Write the artifact `report/`: `index.html`, `metrics.json`, `test_routes.parquet` and the figures."""
    stages = _manifests(context)
    valid, test = (read_samples(artifacts.join(context.artifact("scores"), split)).to_pandas() for split in ("valid", "test"))
    context.progress.say(f"judging the policy on {len(test):,} test rows")
    found = _search(context.artifact("policy"))
    evaluation = evaluate(valid, test, found, _facts(context.artifact("tables"), recipe, stages), config)
    _write(context, evaluation, {name: manifest.config for name, manifest in stages.items()} | {"report": config})
    context.facts["test"] = evaluation.metrics["test"]


def _manifests(context: StageContext) -> dict[str, Manifest]:
    """Return what the earlier stages say of themselves."""
    found = {name: artifacts.read_manifest(context.artifact(name)) for name in STAGES}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def _facts(tables: str, recipe: str, stages: Mapping[str, Manifest]) -> RunFacts:
    """Collect what the report says of the data and of the stages."""
    known = artifacts.require(tables).facts
    schema = artifacts.read_json(artifacts.join(tables, "features.json"))["schema"]
    return RunFacts(
        recipe=recipe,
        synthetic=schema["synthetic"],
        rows=known["rows"],
        label_rate={split: _label_rate(artifacts.join(tables, split)) for split in known["rows"]},
        quarantine=known["quarantine"],
        stages={name: _timing(name, manifest) for name, manifest in stages.items()},
        best_auc=known.get("best_auc"),
    )


def _label_rate(samples: str) -> float:
    rows, clicks = 0, 0
    for batch in dataset(samples).to_batches(columns=["label"]):
        rows += batch.num_rows
        clicks += int(batch["label"].to_numpy().sum())
    return clicks / rows if rows else float("nan")


def _timing(name: str, manifest: Manifest) -> dict[str, Any]:
    """Return how long a stage took and, where its facts count what it made, how much of it in a second."""
    facts = manifest.facts
    made = {"tables": facts.get("rows"), "prompts": facts.get("prompts"), "scores": facts.get("rows")}.get(name)
    if made is None:
        return {"seconds": manifest.seconds, "rate": None, "unit": None}
    count = sum(made.values()) if isinstance(made, Mapping) else made
    unit = "prompts/s" if name == "prompts" else "samples/s"
    return {"seconds": manifest.seconds, "rate": count / max(manifest.seconds, 1e-9), "unit": unit}


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


def _write(context: StageContext, evaluation: Evaluation, settings: Any) -> None:
    """Write everything that `report/` holds."""
    drawn = figures(evaluation.metrics, _training_log(artifacts.join(context.artifact("checkpoints"), "training_log.jsonl")))
    artifacts.write_json(artifacts.join(context.folder, "metrics.json"), evaluation.metrics)
    _write_table(evaluation.routes, artifacts.join(context.folder, "test_routes.parquet"))
    fs, folder = fsspec.core.url_to_fs(context.folder)
    fs.makedirs(artifacts.join(folder, "figures"), exist_ok=True)
    for name, svg in drawn.items():
        fs.pipe_file(artifacts.join(folder, "figures", f"{name}.svg"), svg)
    fs.pipe_file(artifacts.join(folder, "index.html"), render(evaluation.metrics, drawn, settings).encode())


def _write_table(table: pd.DataFrame, uri: str) -> None:
    with fsspec.open(uri, "wb") as file:
        table.to_parquet(file, index=False)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _training_log(uri: str) -> list[dict[str, Any]]:
    """Return the lines of the training log; a run without training has none."""
    fs, path = fsspec.core.url_to_fs(uri)
    return [json.loads(line) for line in fs.cat_file(path).splitlines() if line.strip()] if fs.exists(path) else []
