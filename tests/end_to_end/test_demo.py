"""`make run` and `make serve` as a user sees them: the demo recipe, whole, on real Ray, DeepSpeed and MLflow, then behind HTTP."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import pytest
import torch
from grpc import StatusCode
from transformers import AutoModelForCausalLM

from components import artifacts
from components.joint.ensemble import Ensemble
from tests.end_to_end.command import ROOT, environment, pipeline
from tests.end_to_end.conftest import FinishedRun
from tests.serving import score, strangers
from tests.serving.attacks import ATTACKS
from tests.serving.http_server import called
from tests.serving.served import Served, served

pytestmark = pytest.mark.end_to_end
RECORDED = Path(__file__).with_name("recorded_demo_losses.json")  # of validation, after each epoch
WARMUP_AT_LEAST = 4  # epochs
LOSSES = {"crm": "valid_crm_logloss", "llm": "valid_llm_logloss"}
ROWS = 40
CLOSE = 1e-4  # float32: the demo's LLM is in full precision
CLOSE_IN_BFLOAT16 = 5e-3
OTHERS = 9  # candidates beside the one whose score is known
ATTACKED_USERS = 10
CHECK = ROOT.parent / "shared" / "tools" / "check_run.py"


def metrics_of(run: FinishedRun) -> dict:
    return json.loads((run.output / "report" / "metrics.json").read_text())


def test_the_run_ends_with_a_table_and_the_next_steps(demo: FinishedRun) -> None:
    for words in ("AUC", "LogLoss", "CRM", "LLM", "routed", "synthetic", "index.html", "mlflow ui", "ml-100k"):
        assert words in demo.printed


def test_text_lets_the_ensemble_beat_the_crm_on_new_items(demo: FinishedRun) -> None:
    routed = metrics_of(demo)["test"]["routed"]
    assert 0.05 <= routed["llm_share"] <= 0.40
    assert routed["auc_minus_crm"]["low"] > 0


def test_losses_repeat_the_recorded_curve(demo: FinishedRun) -> None:
    log = [json.loads(line) for line in (demo.output / "checkpoints" / "training_log.jsonl").read_text().splitlines()]
    for model, recorded in json.loads(RECORDED.read_text()).items():
        found = {(line["stage"], line["epoch"]): line[LOSSES[model]] for line in log if LOSSES[model] in line}
        for stage, epoch, loss in recorded:
            # Processors round differently, and thousands of steps of the LLM make it more. Where the warm-up's AUC hardly
            # moves, after its fourth epoch, it may end earlier or later.
            if stage == "warmup" and epoch > WARMUP_AT_LEAST and (stage, epoch) not in found:
                continue
            close = 0.005 if model == "crm" or epoch == 0 else 0.02
            assert found[stage, epoch] == pytest.approx(loss, abs=close), (model, stage, epoch)


def test_metrics_json_has_the_promised_keys(demo: FinishedRun) -> None:
    metrics = metrics_of(demo)
    assert {"recipe", "rows", "test", "shares", "stages"} <= set(metrics)
    assert set(metrics["rows"]) == {"train", "valid", "test"}
    assert set(metrics["test"]) == {"crm", "llm", "routed", "random", "average", "oracle"}
    for entry in metrics["test"].values():
        assert {"auc", "uauc", "logloss", "accuracy", "ece"} <= set(entry)
    assert {"0.1", "0.2", "0.3", "0.5", "1.0"} == set(metrics["shares"])
    assert set(metrics["stages"]) == {"tables", "backbone", "prompts", "checkpoints", "scores", "policy", "ensemble", "report"}
    assert all({"seconds", "rate"} <= set(stage) for stage in metrics["stages"].values())


def test_the_score_table_has_the_promised_columns(demo: FinishedRun) -> None:
    scores = pd.concat(pd.read_parquet(file) for file in (demo.output / "scores").glob("*.parquet"))
    assert {"split", "user_id", "item_id", "timestamp_s", "label", "p_crm", "p_llm"} <= set(scores)
    assert set(scores["split"].astype(str)) == {"valid", "test"}
    assert scores["p_crm"].between(0, 1).all()
    assert scores["p_llm"].between(0, 1).all()


@pytest.mark.skipif(not CHECK.exists(), reason=f"{CHECK} is absent")
def test_figures_recomputed_from_scores_and_routes_agree(demo: FinishedRun) -> None:
    checked = subprocess.run([sys.executable, str(CHECK), str(demo.output)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_same_command_again_does_no_work_and_says_so(demo: FinishedRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.output.rglob("*") if path.is_file() and path.name != ".lock"}
    again = pipeline(demo.temp, "demo", "--output", str(demo.output))
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_mlflow_has_a_run_for_the_pipeline_each_stage_and_each_trial(demo: FinishedRun) -> None:
    code = (
        "import mlflow, json; mlflow.set_tracking_uri('sqlite:///{store}');"
        "runs = mlflow.search_runs(search_all_experiments=True, output_format='list');"
        "kept = [[run.info.run_name, run.data.tags.get('mlflow.parentRunId'), run.info.status, run.info.run_id] for run in runs];"
        "print(json.dumps(kept))"
    ).format(store=demo.output.parent / "mlflow.db")
    asked = subprocess.run([sys.executable, "-c", code], env=environment(demo.temp), capture_output=True, text=True, check=True)
    runs = json.loads(asked.stdout)
    [(parent_id, status)] = [(run_id, status) for name, parent, status, run_id in runs if parent is None]
    assert status == "FINISHED"
    stages = {name: run_id for name, parent, _, run_id in runs if parent == parent_id}
    assert set(stages) == {"tables", "backbone", "prompts", "checkpoints", "scores", "policy", "ensemble", "report"}
    trials = len(pd.read_parquet(demo.output / "policy" / "trials.parquet"))
    assert sum(parent == stages["policy"] for _, parent, _, _ in runs) == trials


def test_generated_data_are_named_as_such_in_mlflow(demo: FinishedRun) -> None:
    said = "select count(*) from {} where key = 'synthetic' and value = 'true'"
    with contextlib.closing(sqlite3.connect(demo.output.parent / "mlflow.db")) as store:
        counts = [store.execute(said.format(tags)).fetchone()[0] for tags in ("tags", "model_version_tags")]
        assert counts == [9, 1]  # the run and its eight stages
        assert store.execute("select value from input_tags where name = 'synthetic'").fetchall() == [("true",)]


def test_the_registered_ensemble_gives_the_scores_of_the_score_table(demo: FinishedRun) -> None:
    code = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
import mlflow
from pipelines.recording import example_rows
mlflow.set_tracking_uri("sqlite:///{demo.output.parent / "mlflow.db"}")
model = mlflow.pyfunc.load_model("models:/tandem@champion")
print(json.dumps(model.predict(example_rows({str(demo.output)!r}, rows=200)).to_dict("list")))
"""
    asked = subprocess.run([sys.executable, "-c", code], env=environment(demo.temp), capture_output=True, text=True, check=True)
    given = pd.DataFrame(json.loads(asked.stdout.splitlines()[-1]))
    key = ["user_id", "item_id", "timestamp_s"]
    scores = pd.read_parquet(demo.output / "scores", filters=[("split", "==", "test")])
    routes = pd.read_parquet(demo.output / "report" / "test_routes.parquet")
    both = given.merge(scores, on=key, suffixes=("", "_table")).merge(routes, on=key, suffixes=("", "_routes"))
    assert len(both) >= 200
    assert (both["p_crm"] - both["p_crm_table"]).abs().max() < 1e-5
    assert (both["p_routed"] - both["p_routed_routes"]).abs().max() < 1e-4
    assert (both["arm"] == both["arm_routes"]).all()
    assert set(both["arm"]) == {"crm", "llm"}


def test_the_report_is_one_file_that_names_the_data_as_synthetic(demo: FinishedRun) -> None:
    page = (demo.output / "report" / "index.html").read_text()
    assert "synthetic" in page.lower()
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_quarantine_of_clean_data_is_empty(demo: FinishedRun) -> None:
    assert len(pd.read_parquet(demo.output / "tables" / "quarantine.parquet")) == 0


def test_nothing_unfinished_stays_in_the_output(demo: FinishedRun) -> None:
    left = [path.name for path in Path(demo.output).iterdir() if "partial" in path.name]
    assert left == []


@pytest.fixture(scope="module")
def endpoint(demo: FinishedRun) -> Iterator[Served]:
    with served(demo.temp / "served", demo.output, "deadline_ms=30000") as found:
        yield found


def test_rows_of_the_test_split_get_the_scores_they_were_evaluated_with(demo: FinishedRun, endpoint: Served) -> None:
    keys = ["user_id", "item_id", "timestamp_s"]
    samples = pads.dataset(demo.output / "tables" / "test").to_table().to_pandas()
    items = pd.read_parquet(demo.output / "tables" / "items.parquet")["item_id"].to_numpy()
    scores = pads.dataset(demo.output / "scores").to_table(filter=pads.field("split") == "test").to_pandas()
    routes = pd.read_parquet(demo.output / "report" / "test_routes.parquet")
    known = samples[[*keys, "history_rows", "history_ratings", "earlier_count"]].merge(scores[[*keys, "p_crm", "p_llm"]], on=keys)
    known = known.merge(routes, on=keys)
    whole = known[known["earlier_count"] == known["history_rows"].str.len()]  # the router reads how long a history is
    chosen = pd.concat([whole[whole["arm"] == arm].head(ROWS // 2) for arm in ("crm", "llm")])
    assert len(chosen) >= ROWS // 2
    assert set(chosen["arm"]) == {"crm", "llm"}
    for row in chosen.itertuples():
        history = [
            {"item_id": items[at], "rating": float(rating)} for at, rating in zip(row.history_rows, row.history_ratings, strict=True)
        ]
        body = {"user": {"id": row.user_id, "history": history}, "candidates": [{"id": row.item_id}]}
        (routed,) = endpoint.post("/v1/score", body).body["results"]
        (by_llm,) = endpoint.post("/v1/score", {**body, "threshold": "-inf"}).body["results"]
        assert routed["arm"] == row.arm
        assert routed["p_crm"] == pytest.approx(row.p_crm, abs=CLOSE)
        assert routed["score"] == pytest.approx(row.p_routed, abs=CLOSE)
        assert by_llm["p_llm"] == pytest.approx(row.p_llm, abs=CLOSE)
        several = {**body, "candidates": [{"id": item} for item in (*items[:OTHERS], row.item_id)], "threshold": "-inf"}
        assert endpoint.post("/v1/score", several).body["results"][-1]["p_llm"] == pytest.approx(row.p_llm, abs=CLOSE)


def test_in_bfloat16_many_candidates_get_over_http_what_their_rows_get_offline(demo: FinishedRun, tmp_path: Path) -> None:
    """A run trained with `train.precision bf16` may keep its weights so; this one's are rounded."""
    with artifacts.create(str(tmp_path / "ensemble"), "half", ()) as (aside, _):
        shutil.copytree(demo.output / "ensemble", aside, ignore=shutil.ignore_patterns(artifacts.MANIFEST), dirs_exist_ok=True)
        half = AutoModelForCausalLM.from_pretrained(demo.output / "ensemble" / "llm", dtype=torch.bfloat16)
        half.save_pretrained(Path(aside) / "llm")
    ensemble = Ensemble.load(str(tmp_path / "ensemble"))
    assert next(ensemble.llm.parameters()).dtype == torch.bfloat16
    samples = pads.dataset(demo.output / "tables" / "test").to_table().to_pandas().drop_duplicates("user_id").head(ROWS)
    items = ensemble.store.items["item_id"].to_numpy(object)
    ensemble.policy = replace(ensemble.policy, threshold=-np.inf)
    expected, found = [], []
    with called(tmp_path / "ensemble", tmp_path / "events.db", deadline_ms=60_000) as http:
        for number, row in enumerate(samples.itertuples()):
            asked, history = items[number : number + OTHERS].tolist(), (items[row.history_rows].tolist(), row.history_ratings.tolist())
            rows = {"user_id": row.user_id, "timestamp_s": row.timestamp_s, "earlier_count": len(history[0])}
            rows |= {"history_items": history[0], "history_ratings": history[1]}
            expected.append(ensemble.predict(pd.DataFrame([{**rows, "item_id": item} for item in asked]))[["p_crm", "p_llm", "p_routed"]])
            past = [{"item_id": item, "rating": rating} for item, rating in zip(*history, strict=True)]
            answer = score.ask(http, asked, {"id": row.user_id, "history": past}, threshold="-inf")
            assert not answer["degraded"]
            found += [[result["p_crm"], result["p_llm"], result["score"]] for result in answer["results"]]
    offline, online = np.concatenate(expected), np.array(found)
    assert offline.std(axis=0).min() > 0.1
    close = np.abs(online - offline) <= CLOSE_IN_BFLOAT16
    assert close[:, :2].all(), "p_crm and p_llm"
    # A learned calibration is steep in places and rounding grows there; else the routed scores are as close, and made of these two.
    assert close[:, 2].mean() > 0.99
    routes = ensemble.policy.answer({"p_crm": online[:, 0], "p_llm": online[:, 1]}, np.ones(len(online), bool))
    assert routes.p_routed == pytest.approx(online[:, 2], abs=1e-6)


def test_the_examples_of_the_document_run_as_they_stand(endpoint: Served) -> None:
    paths = endpoint.get("/openapi.json").body["paths"]
    for path in ("/v1/score", "/v1/rank", "/v1/events"):
        ((_, example),) = paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"].items()
        answer = endpoint.post(path, example["value"])
        assert answer.status == 200, answer.body


def test_how_far_an_items_own_text_moves_its_own_score_is_measured(demo: FinishedRun, endpoint: Served) -> None:
    """`pytest -s` shows the figures of SECURITY.md: nothing prevents this, other items are safe."""
    items = pd.read_parquet(demo.output / "tables" / "items.parquet").head(OTHERS)
    users = pd.read_parquet(demo.output / "tables" / "users.parquet")["user_id"].head(ATTACKED_USERS)

    def p_llm(more: str) -> np.ndarray:
        candidates = [{"id": item, "title": f"{title}{more}"} for item, title in zip(items["item_id"], items["title"], strict=True)]
        asked = [{"user": {"id": user}, "candidates": candidates, "threshold": "-inf"} for user in users]
        return np.array([result["p_llm"] for body in asked for result in endpoint.post("/v1/score", body).body["results"]], float)

    plain = p_llm("")
    shifts = {name: p_llm(f" {attack}") - plain for name, attack in ATTACKS.items()}
    for name, shift in shifts.items():
        print(
            f"\n{name} after an item's title: its p_llm moves by {shift.mean():+.3f} (from {shift.min():+.3f} to {shift.max():+.3f})",
            end="",
        )
    assert np.isfinite(list(shifts.values())).all()


def test_http_listens_on_loopback_and_no_other_port_does_a_strangers_bidding(endpoint: Served, tmp_path: Path) -> None:
    found, marker = strangers.listeners(endpoint), tmp_path / "marker"
    assert {one.host for one in found if endpoint.url.endswith(f":{one.port}")} == {"127.0.0.1"}
    # Ray's own ports listen everywhere, whatever it is told: the token is what keeps strangers out.
    answers = [answer for one in found if not one.is_local and (answer := one.http_answer())]
    assert {status for status, _ in answers} == {200, 401}
    assert all(body.startswith(b"# HELP ") for status, body in answers if status == 200), "figures for Prometheus"
    assert {one.gcs_status() for one in found if one.process == "gcs_server"} == {StatusCode.UNAUTHENTICATED}
    replicas = {one.replica_status(marker) for one in found if "ServeReplica" in one.process}
    assert replicas == {StatusCode.UNAUTHENTICATED, StatusCode.UNIMPLEMENTED}  # the latter: a port of Ray's core
    assert not marker.exists()


def test_the_tokens_are_private_and_in_no_log_record_or_command_line(demo: FinishedRun, endpoint: Served) -> None:
    for home in (demo.temp, endpoint.log.parent):
        file = home / ".ray" / "tandem_token"
        assert file.stat().st_mode & 0o777 == 0o600
        token = file.read_bytes()
        assert len(token) == 64
        assert strangers.files_with(token, home) == [file]
        assert not [process for process in strangers.processes(endpoint) if token.decode() in " ".join(process.cmdline())]


def test_what_clients_send_reaches_no_log(endpoint: Served) -> None:
    assert list(strangers.send_forged_lines(endpoint)) == [200, 422, 422, 422, 422, 404, 400]
    assert strangers.files_with(b"forged", endpoint.log.parent) == []


def test_a_ranking_has_the_best_of_the_catalogue(demo: FinishedRun, endpoint: Served) -> None:
    items = pd.read_parquet(demo.output / "tables" / "items.parquet")["item_id"].tolist()
    user = {"id": "2"}
    ranked = endpoint.post("/v1/rank", {"user": user, "k": 10, "threshold": "inf"}).body["results"]
    parts = [items[start : start + 500] for start in range(0, len(items), 500)]
    asked = [{"user": user, "candidates": [{"id": item} for item in part], "threshold": "inf"} for part in parts]
    scored = [result for body in asked for result in endpoint.post("/v1/score", body).body["results"]]
    best = sorted((result["p_crm"] for result in scored), reverse=True)[:10]
    assert np.allclose(sorted((result["p_crm"] for result in ranked), reverse=True), best, atol=1e-6)


def test_the_policy_of_the_run_is_the_policy_that_is_served(demo: FinishedRun, endpoint: Served) -> None:
    assert endpoint.get("/v1/policy").body["policy"] == json.loads((demo.output / "policy" / "policy.json").read_text())
