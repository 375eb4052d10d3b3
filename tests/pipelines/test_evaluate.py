import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from components import artifacts
from components.errors import ArtifactError
from components.report.evaluation import Config
from components.routing.fit import Spec, fit_policy
from components.types import Schema
from pipelines import evaluate
from pipelines.progress import Progress
from pipelines.stage import StageContext
from tests.components.report.scores import LOG, generated
from tune.choice import Candidate, as_table, crm_alone, pareto
from tune.objective import evaluate as scored
from tune.objective import prepare

CHECK = Path(__file__).parents[2].parent / "shared" / "tools" / "check_run.py"
STAGES = {"tables": {"seconds": 3.0, "rate": 100.0, "unit": "samples/s"}}
SHARES = ("0.1", "0.2", "0.3", "0.5", "1.0")
SPECS = (Spec("gain", 0.3, "mix", 0.6, "platt", "platt"), Spec("entropy", 0.2, "replace", 1.0, "none", "platt"))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's output up to the stage that evaluates it, and its report."""
    folder = tmp_path_factory.mktemp("run")
    parts = {split: generated(rows, seed, split) for split, rows, seed in (("train", 300, 0), ("valid", 1500, 1), ("test", 1000, 2))}
    with artifacts.create(str(folder / "tables"), "t", {}) as (tables, noted):
        for split, part in parts.items():
            write(part[["user_id", "label"]], f"{tables}/{split}/part-000000.parquet")
        artifacts.write_json(f"{tables}/features.json", {"schema": Schema(1, 5, 3, synthetic=True)})
        noted |= {"rows": {split: len(part) for split, part in parts.items()}, "quarantine": {"interactions: no time": 3}, "best_auc": 0.9}
    with artifacts.create(str(folder / "scores"), "s", {}) as (scores, _):
        for split in ("valid", "test"):
            half = len(parts[split]) // 2
            write(parts[split][:half], f"{scores}/part-{split}-0.parquet")
            write(parts[split][half:], f"{scores}/part-{split}-1.parquet")
    with artifacts.create(str(folder / "checkpoints"), "c", {}) as (checkpoints, _):
        Path(checkpoints, "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    write_policy(folder / "policy", parts["valid"])
    with artifacts.create(str(folder / "report"), "r", {}) as (report, _):
        evaluate.run(context(folder, report), Config(bootstrap_draws=50, random_draws=3), "demo", STAGES, {"seed": 1})
    return folder


def context(output: Path, folder: str) -> StageContext:
    return StageContext(str(output), folder, "r", Progress(1), lambda *_: None, {})


def write(frame: pd.DataFrame, path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False)


def write_policy(folder: Path, valid: pd.DataFrame) -> None:
    data = prepare(valid, 2)
    trials = as_table([crm_alone(data), *(Candidate(spec, scored(data, spec)) for spec in SPECS)])
    with artifacts.create(str(folder), "p", {}) as (policy, _):
        write(trials, f"{policy}/trials.parquet")
        write(pareto(trials), f"{policy}/pareto.parquet")
        artifacts.write_json(f"{policy}/policy.json", fit_policy(valid, SPECS[0]).to_json())
        at_shares = {share: fit_policy(valid, replace(SPECS[0], share=float(share))).to_json() for share in SHARES}
        artifacts.write_json(f"{policy}/at_shares.json", at_shares)
        artifacts.write_json(f"{policy}/search.json", {"sentence": "It pays.", "gain": {"difference": 0.02, "low": 0.01, "high": 0.03}})


def test_the_report_is_a_whole_artifact(output: Path):
    files = artifacts.require(str(output / "report")).files
    assert {"index.html", "metrics.json", "test_routes.parquet", "figures/auc_by_share.svg", "figures/training_joint.svg"} <= set(files)


def test_routes_and_scores_give_the_figures_in_metrics_json(output: Path):
    metrics = json.loads((output / "report" / "metrics.json").read_text())
    routes, test = pd.read_parquet(output / "report" / "test_routes.parquet"), generated(1000, 2, "test")
    assert routes[["user_id", "item_id", "timestamp_s"]].equals(test[["user_id", "item_id", "timestamp_s"]])
    assert roc_auc_score(test["label"], routes["p_routed"]) == pytest.approx(metrics["test"]["routed"]["auc"], abs=1e-12)
    assert (routes["arm"] == "llm").mean() == metrics["test"]["routed"]["llm_share"]


def test_metrics_tell_what_the_other_artifacts_say(output: Path):
    metrics = json.loads((output / "report" / "metrics.json").read_text())
    assert metrics["recipe"] == "demo"
    assert metrics["synthetic"] is True
    assert metrics["rows"] == {"train": 300, "valid": 1500, "test": 1000}
    assert metrics["label_rate"]["train"] == pytest.approx(generated(300, 0, "train")["label"].mean())
    assert metrics["quarantine"] == {"interactions: no time": 3}
    assert metrics["search"]["sentence"] == "It pays."
    assert metrics["best_auc"] == 0.9
    own = metrics["stages"].pop("report")
    assert own["seconds"] * own["rate"] == pytest.approx(1000)  # test rows
    assert metrics["stages"] == STAGES


def test_a_search_file_that_says_too_little_is_refused(output: Path, tmp_path: Path):
    for name in ("scores", "tables", "checkpoints"):
        (tmp_path / name).symlink_to(output / name)
    with artifacts.create(str(tmp_path / "policy"), "p", {}) as (policy, _):
        for file in (output / "policy").glob("[!_]*.[pj]*"):
            Path(policy, file.name).write_bytes(file.read_bytes())
        artifacts.write_json(f"{policy}/search.json", {"gain": {}})
    with pytest.raises(ArtifactError, match="sentence"):
        evaluate.run(context(tmp_path, str(tmp_path / "report")), Config(), "demo", {}, {})


@pytest.mark.skipif(not CHECK.exists(), reason="needs a check of finished runs that is not part of the project")
def test_an_independent_check_agrees_with_the_report(output: Path):
    done = subprocess.run([sys.executable, str(CHECK), str(output), "routed>=crm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
