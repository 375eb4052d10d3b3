"""Where runs are recorded, and when that counts as done."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import artifacts
from pipelines.recipes import demo
from pipelines.recording import MARK, Recording, default_store


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
            recording._run.log_folder(report, "report")
            recording._finished = True
        assert recording.is_complete() == is_there
        report.mkdir(parents=True, exist_ok=True)


def test_runs_are_recorded_beside_a_local_output_else_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_store(str(tmp_path / "runs" / "demo")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert default_store("s3://bucket/runs/demo") == f"sqlite:///{tmp_path}/home/tandem-runs/mlflow.db"
