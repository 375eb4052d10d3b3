"""What a run is told, and what it prints when it is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components import artifacts
from components.errors import ConfigError
from components.tracking import Tracking
from pipelines import command_line
from pipelines.recipes import demo

ARM = {"auc": 0.5, "logloss": 0.7, "accuracy": 0.5, "llm_share": 0.0, "auc_minus_crm": {"low": None}}


def shown(folder: Path, store: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is printed at the end of a run that is recorded in a store."""
    artifacts.write_json(f"{folder}/report/metrics.json", {"test": dict.fromkeys(("crm", "llm", "routed"), ARM), "synthetic": False})
    command_line.show_result(replace(demo(), tracking=Tracking.Config(uri=store)), str(folder))
    return capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["https", "postgresql"])
def test_the_password_of_a_store_is_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str) -> None:
    text = shown(tmp_path, f"{scheme}://me:ge/heim@db/mlflow", capsys)
    assert f"{scheme}://***@db/mlflow" in text
    assert "heim" not in text


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["train.joint.crm_learning_rate", "tune.max_llm_share", "crm.dropout", "train.checkpoint_every_s"])
def test_a_number_that_is_none_is_refused_with_its_key(key: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((ConfigError, SystemExit)) as refused:
        command_line.parse(["demo", f"--{key.replace('_', '-')}={number}"])
    assert getattr(refused.value, "exit_code", 2) == getattr(refused.value, "code", 2) == 2
    assert key.rsplit(".", 1)[-1] in f"{refused.value}{capsys.readouterr()}"


def test_a_number_that_no_bound_catches_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"^train\.checkpoint_every_s: expected a finite number, got nan$"):
        command_line.parse(["demo", "--train.checkpoint-every-s=nan"])
