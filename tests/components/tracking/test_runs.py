"""Runs and figures in one SQLite store, and the configuration."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from components.errors import ConfigError
from components.tracking import Tracking, log_trials, open_tracker
from components.tracking import names as tracking_names
from tests.components.tracking.stores import metric_rows, open_at, rows, sqlite_uri


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import sys, components.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_a_run_is_recorded_beside_its_database_and_nothing_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "curve.txt").write_text("0.5")
    with open_at(tmp_path).run("train", params={"crm": {"lr": 0.001, "none": None}}, tags={"stage": "train"}) as run:
        run.log_metrics({"loss": 0.5}, step=1)
        run.log_files(tmp_path / "curve.txt", "plots")
    assert rows(tmp_path, "select key, value from params") == [("crm.lr", "0.001")]
    assert rows(tmp_path, "select status, name from runs") == [("FINISHED", "train")]
    assert [path.read_text() for path in (tmp_path / "mlflow-artifacts").rglob("plots/curve.txt")] == ["0.5"]
    assert list((tmp_path / "here").iterdir()) == []
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not (tmp_path / "spool.jsonl").exists()


def test_a_metric_logged_twice_leaves_one_row_and_the_first_value(folder: Path) -> None:
    tracker = open_at(folder)
    with tracker.run("train", key="fingerprint") as run:
        run.log_metrics({"auc": 0.7}, step=3)
        time.sleep(0.002)  # another time stamp, which MLflow takes for another row
        run.log_metrics({"auc": 0.8, "loss": 0.1}, step=3)
        with open_at(folder).run("train", key="fingerprint") as restarted:
            restarted.log_metrics({"auc": 0.9}, step=3)
            restarted.log_metrics({"auc": 0.9}, step=4)
    assert metric_rows(folder) == [("auc", 3, 0.7), ("auc", 4, 0.9), ("loss", 3, 0.1)]


def test_figures_that_are_not_finite_are_left_out(folder: Path) -> None:
    with open_at(folder).run("train") as run:
        run.log_metrics({"a": float("nan"), "b": float("inf"), "c": 1, "d": None, "e": "high"})
        run.log_metrics({"a": float("nan")}, step=1)
    assert metric_rows(folder) == [("c", 0, 1.0)]


def test_keys_names_and_values_are_made_safe(folder: Path) -> None:
    with open_at(folder).run("a\x1b[31m\nb", tags={"note\n": "x\r\ny\ud800"}) as run:
        run.log_metrics({"ndcg@10": 0.25, "../a//b": 0.5})
        run.log_params({"long": "z" * 7000, "k\x00ey": "v"})
    assert metric_rows(folder) == [("a/b", 0, 0.5), ("ndcg_10", 0, 0.25)]
    assert rows(folder, "select name from runs") == [("a [31m b",)]
    assert rows(folder, "select value from tags where key = 'note_'") == [("x  y ",)]
    params = dict(rows(folder, "select key, value from params"))
    assert params["k_ey"] == "v"
    assert len(params["long"]) == 6000
    assert params["long"].endswith("z... (cut, 7000 characters)")


def test_more_parameters_than_one_request_holds_are_all_recorded(folder: Path) -> None:
    with open_at(folder).run("train", params={f"p{number}": number for number in range(230)}):
        pass
    assert rows(folder, "select count(*) from params") == [(230,)]


def test_a_changed_parameter_keeps_its_first_value_and_new_ones_are_added(folder: Path) -> None:
    with open_at(folder).run("train", params={"lr": 1, "seed": 2}) as run:
        run.log_params({"lr": 3, "epochs": 4})
    assert rows(folder, "select key, value from params order by key") == [("epochs", "4"), ("lr", "1"), ("seed", "2")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (RuntimeError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(2), "FAILED"),
    ],
)
def test_a_run_ends_as_its_block_ended(folder: Path, error: BaseException | None, status: str) -> None:
    with contextlib.suppress(BaseException), open_at(folder).run("train"):
        if error is not None:
            raise error
    assert rows(folder, "select status from runs") == [(status,)]


def test_ctrl_c_marks_the_run_and_its_child_killed(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_at(folder).run("full") as run, run.child("train"):
        raise KeyboardInterrupt
    assert rows(folder, "select name, status from runs order by name") == [("full", "KILLED"), ("train", "KILLED")]


def test_children_are_found_under_their_parent(folder: Path) -> None:
    with open_at(folder).run("full") as run, run.child("train") as train, train.child("epoch"):
        pass
    ids = dict(rows(folder, "select name, run_uuid from runs"))
    parents = dict(rows(folder, "select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
    assert parents == {ids["train"]: ids["full"], ids["epoch"]: ids["train"]}


def test_a_pipeline_run_again_continues_its_run_and_its_children(folder: Path) -> None:
    for _ in range(2):
        with open_at(folder).run("full", key="it's") as run, run.child("train") as train:
            train.log_metrics({"loss": 0.5}, step=1)
    assert rows(folder, "select name, status from runs order by name") == [("full", "FINISHED"), ("train", "FINISHED")]
    assert metric_rows(folder) == [("loss", 1, 0.5)]


def test_the_data_of_a_run_are_recorded_once(folder: Path) -> None:
    with open_at(folder).run("prepare") as run:
        for _ in range(2):
            run.log_dataset("ml-100k", "s3://user:secret@bucket/ml-100k", "0123456789abcdef", tags={"synthetic": "true"})
    found = rows(folder, "select name, digest, dataset_source from datasets")
    assert found == [("ml-100k", "0123456789abcdef", '{"uri": "s3://***@bucket/ml-100k"}')]
    assert rows(folder, "select count(*) from inputs") == [(1,)]
    assert rows(folder, "select name, value from input_tags") == [("mlflow.data.context", "training"), ("synthetic", "true")]


def test_a_hundred_trials_take_seconds_and_are_not_doubled(folder: Path) -> None:
    frame = pd.DataFrame({"budget": [0.01 * n for n in range(100)], "auc": [0.5 + 0.001 * n for n in range(100)]})
    frame.loc[7, "auc"] = float("nan")
    with open_at(folder).run("tune") as run:
        started_s = time.process_time()
        log_trials(run, frame, ["budget"], ["auc"])
        assert time.process_time() - started_s < 10  # 2.2 s of work; the rest is the disk's
        log_trials(run, frame.head(10), ["budget"], ["auc"])
        parent = run.run_id
    children = rows(folder, "select count(*) from tags where key = 'mlflow.parentRunId' and value = '" + parent + "'")
    assert children == [(100,)]
    assert rows(folder, "select count(*), sum(value) from metrics") == [(99, pytest.approx(54.95 - 0.507))]
    assert rows(folder, "select name from runs where status = 'FAILED'") == [("7",)]
    assert rows(folder, "select count(*) from params") == [(100,)]


def one_of_four(folders: list[Path], number: int, together: multiprocessing.synchronize.Barrier) -> None:  # pyright: ignore[reportAttributeAccessIssue]
    for folder in folders:
        together.wait(300)
        tracker = open_tracker(Tracking.Config(), sqlite_uri(folder), folder / f"spool-{number}.jsonl")
        with tracker.run(f"run {number}") as run:
            for step in range(30):
                run.log_metrics({"loss": 1 / (1 + step)}, step)


@pytest.mark.slow
def test_four_processes_share_a_fresh_database(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["components.tracking.store"])  # mlflow is imported once
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    together = context.Barrier(4)
    workers = [context.Process(target=one_of_four, args=(folders, number, together)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    for folder in folders:
        assert rows(folder, "select count(*) from runs where status = 'FINISHED'") == [(4,)]
        assert rows(folder, "select count(*) from metrics") == [(120,)]
        assert list(folder.glob("spool-*")) == []


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"uri": "mlruns"}, {"uri": "file:///x"}, {"uri": "sqlite:///:memory:"}, {"experiment": ""}, {"experiment": "a\nb"}],
        *[{"registered_model": "a/b"}, {"registered_model": ""}, {"alias": "latest"}, {"alias": "v2"}, {"alias": "a b"}],
    ],
)
def test_a_wrong_tracking_configuration_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"tracking.{next(iter(wrong))}: expected"):
        Tracking.Config(**wrong)


def test_parameters_are_flattened_by_dots() -> None:
    nested = {"crm": Tracking.Config(uri=None, experiment="x"), "sizes": (1, 2)}
    assert tracking_names.flat(nested) == {
        "crm.type": "Tracking.Config",
        "crm.experiment": "x",
        "crm.registered_model": "tandem",
        "crm.alias": "champion",
        "sizes": json.dumps([1, 2]),
    }


def test_no_password_of_a_uri_is_recorded(folder: Path) -> None:
    config = Tracking.Config(uri="postgresql://me:ge/heim@db/mlflow")
    with open_at(folder).run("at http://me:geheim@host", params={"tracking": config}, tags={"output": "s3://me:ge/heim@bucket"}):
        pass
    assert ("tracking.uri", "postgresql://***@db/mlflow") in rows(folder, "select key, value from params")
    assert b"heim" not in (folder / "mlflow.db").read_bytes()


def test_nothing_is_logged_while_all_goes_well(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_at(folder).run("full") as run:
        run.log_metrics({"loss": 0.5})
    assert [record for record in caplog.records if record.name.startswith("components")] == []
