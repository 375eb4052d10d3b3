"""Exit codes and messages of the command line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import full
from pipelines.lock import owned
from tests.end_to_end.command import pipeline

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> Iterator[Callable[..., int]]:
    """What runs the command line here, in no new process, and returns its exit code."""
    monkeypatch.chdir(short_folder)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str) -> int:
        try:
            return full.main(arguments)
        except SystemExit as left:
            return int(left.code or 0)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_an_unknown_key_is_refused_with_the_nearest_name(short_folder: Path) -> None:
    done = pipeline(short_folder, "demo", "--crm.embeding-size", "8")
    assert done.returncode == 2
    assert "--crm.embedding-size" in done.stdout + done.stderr
    assert not (short_folder / "runs" / "demo" / "tables").exists()


def test_a_value_out_of_range_is_refused(ended: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("demo", "--prepare.max-bad-fraction", "1.5") == 2
    assert "max_bad_fraction" in "".join(capsys.readouterr())


def test_an_unknown_recipe_names_those_there_are(ended: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("ml-10m") == 2
    assert "ml-1m-collm" in "".join(capsys.readouterr())


def test_missing_raw_files_are_one_clear_error(ended: Callable[..., int], capsys: pytest.CaptureFixture[str], short_folder: Path) -> None:
    assert ended("ml-100k", "--data", str(short_folder / "nowhere")) == 1
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error:")
    assert "u.data" in said


def test_help_lists_every_key_with_its_default(ended: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("demo", "--help") == 0
    said = capsys.readouterr().out
    for key in ("--prepare.history-length", "--crm.dcnv2.cross-layers", "--train.deepspeed.zero-stage", "--tune.max-llm-share", "default"):
        assert key in said


def test_a_relative_output_is_refused_inside_a_job(
    ended: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert ended("demo") == 2
    assert "--output" in capsys.readouterr().err


def test_an_output_folder_in_use_ends_with_75_and_names_the_owner(
    ended: Callable[..., int], capsys: pytest.CaptureFixture[str], short_folder: Path
) -> None:
    output = short_folder / "busy"
    with owned(str(output)):
        assert ended("demo", "--output", str(output)) == 75
    assert str(os.getpid()) in capsys.readouterr().err
