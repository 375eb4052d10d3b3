"""What the chain of stages takes for done, and what it says of what it does not."""

from __future__ import annotations

import pytest

from components import artifacts, storage
from pipelines.full import Step, _is_done

STEP = Step("tables", (), (), lambda _: None)
WANTED = {"tables": "f1"}


@pytest.fixture
def output(folder: str) -> str:
    with artifacts.create(f"{folder}/tables", "f1", {}) as (aside, _):
        artifacts.write_json(f"{aside}/features.json", {"schema": 1})
    return folder


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


def test_an_artifact_without_its_manifest_was_never_finished(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    fs, path = storage.filesystem(f"{output}/tables/{artifacts.MANIFEST}")
    fs.rm(path)
    assert not _is_done(output, STEP, WANTED)
    assert "expected a finished artifact" in capsys.readouterr().err
