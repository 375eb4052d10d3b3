"""What a run is told, and what it prints when it is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components import artifacts
from components.errors import ConfigError
from components.tracking import Tracking
from pipelines import command_line
from pipelines.recipes import corella, demo, ml_100k, tabular

ARM = {"auc": 0.5, "logloss": 0.7, "accuracy": 0.5, "llm_share": 0.0, "auc_minus_crm": {"low": None}}


def shown(folder: Path, store: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is printed at the end of a run that is recorded in a store."""
    artifacts.write_json(f"{folder}/report/metrics.json", {"test": dict.fromkeys(("crm", "llm", "routed"), ARM), "synthetic": True})
    command_line.show_result(replace(demo(), tracking=Tracking.Config(uri=store)), str(folder))
    return capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["https", "postgresql"])
def test_the_password_of_a_store_is_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str) -> None:
    text = shown(tmp_path, f"{scheme}://me:ge/heim@db/mlflow", capsys)
    assert f"{scheme}://***@db/mlflow" in text
    assert "heim" not in text


def test_the_command_for_real_data_works_in_any_folder_and_says_where_the_data_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = shown(tmp_path, "sqlite:///runs.db", capsys).splitlines()[-1]
    assert last.startswith("on real data (ml-100k.zip of https://grouplens.org/datasets/movielens/100k/, unpacked): ")
    (program,) = [word for word in last.split() if word.endswith("full.py")]
    assert Path(program).is_absolute()
    assert Path(program).is_file()


def test_the_commands_after_a_job_name_nothing_of_its_copy_of_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(command_line.JOB_MARK, "{}")
    *_, serve, real = shown(tmp_path, "https://mlflow.example", capsys).splitlines()
    assert serve == f"serve it: python -m serving.local --model {tmp_path}"
    assert real.endswith(": python pipelines/full.py ml-100k --data FOLDER_OF_ML_100K")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["train.joint.crm_learning_rate", "tune.max_llm_share", "crm.dropout", "train.checkpoint_every_s"])
def test_a_number_that_is_none_is_refused_with_its_key(key: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ConfigError, SystemExit)) as refused:
        command_line.parse(["demo", f"--{key.replace('_', '-')}={number}"])
    assert getattr(refused.value, "exit_code", 2) == getattr(refused.value, "code", 2) == 2
    assert key.rsplit(".", 1)[-1] in f"{refused.value}{capsys.readouterr()}"


def test_a_number_that_no_bound_catches_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"^train\.checkpoint_every_s: expected a finite number, got inf$"):
        command_line.parse(["demo", "--train.checkpoint-every-s=inf"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--train.joint.epochs=-1", "train.joint.epochs: expected 0 or more, got -1"),
        ("--train.llm.weights.crm=-1", "train.llm.weights.crm: expected 0 or more, got -1.0"),
        ("--tiny.heads=0", "tiny.heads: expected 1 or more, got 0"),
        ("--dataset.users=0", "dataset.users: expected 1 or more, got 0"),
        ("--crm.dcnv2.cross-layers=0", "crm.dcnv2: expected cross_layers >= 1 and rank >= 0, got 0 and 0"),
        ("--crm.fold-in.gain=0", "crm.fold_in: expected size >= 0, and gain and ridges > 0, got "),
        ("--seed=-1", "seed: expected 0 to 4294967295, got -1"),
    ],
)
def test_a_refused_value_is_one_line_with_its_whole_key(typed: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        command_line.parse(["demo", typed])
    assert str(refused.value).startswith(message)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("typed", "said"), [("--tiny.heds=2", "--tiny.heads"), ("--tiny.heads=two", "--tiny.heads")])
def test_what_is_no_key_or_no_value_of_its_type_is_told_in_tyros_words(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.parse(["demo", typed])
    assert left.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "tyro" not in printed


def test_with_a_million_rows_a_recommender_for_small_data_is_told_of_what_it_does_not_read() -> None:
    assert command_line.advice(tabular().crm, 999_999) == ""
    said = command_line.advice(tabular().crm, 1_000_000)
    left_out, keys = said.split("; it would with ")
    assert left_out == "1,000,000 training rows, and the CRM does not read user_id, item_id, the items of the history"
    changed = command_line.parse(["tabular", "--data", "x", *keys.split()])
    assert (changed.crm.history, changed.crm.ignored) == ("rated", ())
    assert command_line.advice(changed.crm, 1_000_000) == ""
    assert command_line.advice(ml_100k().crm, 1_000_000).endswith("--crm.history rated --crm.ignored age gender occupation zip")
    assert command_line.advice(replace(corella().crm, history="mean"), 1_000_000) == ""


def test_only_small_models_are_saved_every_few_seconds() -> None:
    assert corella().train.checkpoint_every_s == 300.0
    assert demo().train.checkpoint_every_s == ml_100k().train.checkpoint_every_s == tabular().train.checkpoint_every_s == 45.0
