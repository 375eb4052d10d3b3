"""What the chain of stages takes for done, and what it says of what it does not."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from components import artifacts, storage
from pipelines import code, full
from pipelines.config import READERS
from pipelines.full import Step, _is_done, _was_finished
from pipelines.interruption import Interruption
from pipelines.recipes import demo
from pipelines.stage import SCRATCH, clear_scratch

STEP = Step("tables", (), (), lambda _: None)
WANTED = {"tables": "f1"}


@pytest.fixture
def output(folder: str) -> str:
    make(folder)
    return folder


def make(folder: str) -> None:
    with artifacts.create(f"{folder}/tables", "f1", {}) as (aside, _):
        artifacts.write_json(f"{aside}/features.json", {"schema": 1})


def test_a_stage_is_done_when_its_artifact_is_there_for_the_same_configuration(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _is_done(output, STEP, WANTED)
    assert not _is_done(output, STEP, {"tables": "f2"})
    assert not _is_done(f"{output}/elsewhere", STEP, WANTED)
    assert capsys.readouterr().err == ""


def test_a_damaged_artifact_is_named_and_counts_as_none(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    fs, path = storage.filesystem(f"{output}/tables/features.json")
    fs.pipe_file(path, fs.cat_file(path).replace(b"1", b"2"))  # pyright: ignore
    assert not _is_done(output, STEP, WANTED)
    said = capsys.readouterr().err
    assert said.startswith(f"tables is made anew: {output}/tables/features.json is damaged: expected sha256 ")


def test_artifacts_of_code_that_was_edited_since_are_named(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, made_by in (("tables", code.digest()), ("prompts", "another"), ("scores", "another")):
        with artifacts.create(f"{folder}/{name}", "f1", {}) as (_, facts):
            facts[full.CODE] = made_by
    full._name_edited(folder, [replace(STEP, name=name) for name in ("tables", "prompts", "scores")])
    said = capsys.readouterr().err
    assert said == "prompts, scores: made by code that was edited since; another --output makes them anew\n"


def test_an_artifact_without_its_manifest_was_never_finished(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    fs, path = storage.filesystem(f"{output}/tables/{artifacts.MANIFEST}")
    fs.rm(path)
    assert not _is_done(output, STEP, WANTED)
    assert "expected a finished artifact" in capsys.readouterr().err


def test_what_a_killed_run_had_finished_is_put_in_its_place_and_named(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        for publishing in ("_replace", "_publish"):
            patch.setattr(artifacts, publishing, stop)
        with pytest.raises(KeyboardInterrupt):
            make(folder)
    assert not _is_done(folder, STEP, WANTED)
    assert not _was_finished(folder, STEP, {"tables": "f2"}, lambda: None)
    assert _was_finished(folder, STEP, WANTED, lambda: None)
    assert _is_done(folder, STEP, WANTED)
    assert capsys.readouterr().err == "tables is used as a run wrote it that was broken off before it appeared\n"


def test_what_finished_stages_left_to_go_on_from_is_removed_and_nothing_else(folder: str) -> None:
    for name in ("f1", "f2", "f3"):
        artifacts.write_json(f"{folder}/{SCRATCH}/{name}/checkpoint_1/position.json", {})
    clear_scratch(folder, ["f1", "f4"])
    assert [storage.exists(f"{folder}/{SCRATCH}/{name}") for name in ("f1", "f2", "f3")] == [False, True, True]
    clear_scratch(folder, ["f2", "f3"])
    assert not storage.exists(f"{folder}/{SCRATCH}")
    clear_scratch(folder, ["f2", "f3"])


def test_a_rerun_clears_what_a_run_left_that_was_killed_before_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(demo(), output=str(tmp_path), data=None)
    steps = full.chain(config, str(tmp_path), READERS[type(config.dataset)](config.dataset).read(""))
    wanted = full.fingerprints(steps)
    for name in ("tables", "checkpoints"):
        artifacts.write_json(f"{tmp_path}/{SCRATCH}/{wanted[name]}/checkpoint_1/position.json", {})
    monkeypatch.setattr(full, "_is_done", lambda output, step, wanted: step.name == "tables")
    monkeypatch.setattr(full.cluster, "connect", stop)
    with pytest.raises(KeyboardInterrupt):
        full.run(config, Interruption.__new__(Interruption))
    assert [path.name for path in (tmp_path / SCRATCH).iterdir()] == [wanted["checkpoints"]]


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_finished_run_whose_store_was_away_sends_its_records_without_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Store(contextlib.nullcontext):
        """A store that lacks the run until it is told of it."""

        finished: ClassVar = []

        def __init__(self, *_: object) -> None:
            super().__init__()

        def is_complete(self) -> bool:
            return False

        def finish(self) -> None:
            self.finished.append("sent")

    monkeypatch.setattr(full, "_is_done", lambda *_: True)
    monkeypatch.setattr(full, "Recording", Store)
    monkeypatch.setattr(full.cluster, "connect", stop)
    monkeypatch.setattr(full.command_line, "show_result", lambda *_: None)
    full.run(replace(demo(), output=str(tmp_path)), Interruption.__new__(Interruption))
    assert Store.finished == ["sent"]
    assert capsys.readouterr().out.startswith("Nothing to do but to send what MLflow lacks: every stage was finished ")
