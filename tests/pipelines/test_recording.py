"""Where runs are recorded, and when that counts as done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components import artifacts, storage
from components.tracking import Tracking
from pipelines.recipes import demo
from pipelines.recording import MARK, SPOOLS, Recording, default_store
from tests.components.tracking.stores import dead_uri, metric_rows, rows, sqlite_uri


def test_a_note_of_what_was_recorded_that_is_torn_counts_as_none(tmp_path: Path) -> None:
    recording = Recording(demo(), str(tmp_path / "run"), "f1")
    assert not recording.is_complete()
    artifacts.write_json(str(tmp_path / "run" / MARK), recording._mark)
    assert recording.is_complete()
    (tmp_path / "run" / MARK).write_text('{"fingerp')
    assert not recording.is_complete()


@pytest.mark.slow
def test_a_run_whose_files_were_not_taken_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recording, report = Recording(demo(), str(tmp_path / "run"), "f1"), tmp_path / "run" / "report"
    for is_there in (False, True):
        with recording:
            recording._run.log_files(report, "report")
            recording._finished = True
        assert recording.is_complete() == is_there
        report.mkdir(parents=True, exist_ok=True)


@pytest.mark.slow
def test_what_waits_when_a_run_ends_goes_on_from_another_machine(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, path = storage.filesystem(remote)
    for machine, uri in (("first", dead_uri()), ("second", dead_uri()), ("third", sqlite_uri(tmp_path))):
        monkeypatch.setenv("HOME", str(tmp_path / machine))
        with Recording(replace(demo(), tracking=Tracking.Config(uri=uri)), remote, "f1") as recording:
            recording._run.log_metrics({machine: 0.5})
        assert not list((tmp_path / machine).rglob("mlflow-spool*"))
        assert fs.exists(f"{path}/{SPOOLS[0]}") == (machine != "third")
    assert metric_rows(tmp_path) == [(machine, 0, 0.5) for machine in ("first", "second", "third")]
    assert rows(tmp_path, "select name, status from runs") == [("demo", "FINISHED")]


def test_runs_are_recorded_beside_a_local_output_else_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_store(str(tmp_path / "runs" / "demo")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert default_store("s3://bucket/runs/demo") == f"sqlite:///{tmp_path}/home/tandem-runs/mlflow.db"


@pytest.mark.parametrize("names", [{"registered_model": "other"}, {"alias": "other"}, {"experiment": "other"}])
def test_what_was_recorded_under_other_names_is_recorded_again(tmp_path: Path, names: dict[str, str]) -> None:
    artifacts.write_json(str(tmp_path / "run" / MARK), Recording(demo(), str(tmp_path / "run"), "f1")._mark)
    renamed = replace(demo(), tracking=replace(demo().tracking, **names))
    assert not Recording(renamed, str(tmp_path / "run"), "f1").is_complete()
