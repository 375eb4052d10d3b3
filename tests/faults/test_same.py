"""The comparison of two runs notices what it should, and nothing else."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from tests.faults import same

LOG = [{"stage": "warmup", "step": 20, "steps": 40, "train_loss": 0.5}, {"stage": "warmup", "step": 40, "epoch": 1, "valid_crm_auc": 0.7}]


def write(output: Path, parts: int = 2, seconds: float = 3.0, order: int = 1) -> Path:
    """Write what a run leaves, as far as the comparison looks at it."""
    scores = pd.DataFrame({"user_id": list("abcd"), "item_id": ["x"] * 4, "timestamp_s": range(4), "p_llm": [0.1, 0.2, 0.3, np.nan]})
    scores["history_rows"] = [[1, 2], [], [3], [4]]
    (output / "scores").mkdir(parents=True)
    for number, rows in enumerate(np.array_split(range(4)[::order], parts)):
        scores.iloc[rows].to_parquet(output / "scores" / f"part-{number:06}-{parts}.parquet", index=False)
    (output / "checkpoints" / "crm").mkdir(parents=True)
    save_file({"weight": torch.arange(6.0)}, output / "checkpoints" / "crm" / "model.safetensors")
    (output / "checkpoints" / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    (output / "scores" / "_manifest.json").write_text(
        json.dumps({"fingerprint": "f", "seconds": seconds, "facts": {"rows": 4, "work": [seconds, "steps"]}, "files": {}})
    )
    (output / "policy.json").write_text(json.dumps({"router": "gain", "threshold": 0.25}))
    return output


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "found"), write(tmp_path / "expected", parts=3, seconds=9.0, order=-1)


def change_table(output: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = next((output / "scores").glob("part-000000-*"))
    change(pd.read_parquet(path)).to_parquet(path, index=False)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a value": (lambda at: change_table(at, lambda rows: rows.assign(p_llm=rows["p_llm"] + 2e-6)), "scores: /p_llm[0] is 0.1"),
    "a list": (
        lambda at: change_table(at, lambda rows: rows.assign(history_rows=[[1, 9], []])),
        "scores: /history_rows[0][1] is 9, expected 2",
    ),
    "a row less": (lambda at: change_table(at, lambda rows: rows.head(1)), "scores: /user_id has 3 entries, expected 4"),
    "a row twice": (lambda at: change_table(at, lambda rows: rows.iloc[[0, 0, 1]]), "scores: /user_id has 5 entries, expected 4"),
    "a weight": (
        lambda at: save_file({"weight": torch.arange(6.0) + 1e-5}, at / "checkpoints" / "crm" / "model.safetensors"),
        "checkpoints/crm/model.safetensors: /weight differs",
    ),
    "a threshold": (
        lambda at: (at / "policy.json").write_text('{"router": "gain", "threshold": 0.2501}'),
        "policy.json: /threshold is 0.2501",
    ),
    "a file less": (lambda at: (at / "policy.json").unlink(), "policy.json: only in expected"),
    "a line of the log": (
        lambda at: (at / "checkpoints" / "training_log.jsonl").write_text(json.dumps(LOG[0])),
        "checkpoints/training_log.jsonl:  has 1 entries, expected 2",
    ),
    "a broken attempt": (lambda at: (at / "scores.partial-12345678").mkdir(), "scores.partial-12345678 was left behind"),
}


def test_parts_orders_and_times_make_no_difference(both: tuple[Path, Path]) -> None:
    assert same.differences(*both) == []
    assert (same.rows_lost(*both), same.steps_lost(*both)) == (0, 0)


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_told(both: tuple[Path, Path], name: str) -> None:
    change, expected = CHANGES[name]
    change(both[0])
    (told,) = same.differences(*both)
    assert told.startswith(expected)


def test_rows_and_steps_are_counted_whether_lost_or_doubled(both: tuple[Path, Path]) -> None:
    change_table(both[0], lambda rows: rows.iloc[[0, 0, 0]])
    (both[0] / "checkpoints" / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [LOG[0], LOG[0]]))
    assert same.rows_lost(*both) == 2 + 1  # twice too often, and another one lost
    assert same.steps_lost(*both) == 1 + 1


def store(folder: Path, loss: float, twice: int = 1) -> Path:
    """Write the tables of MLflow that the comparison reads: a run and a stage below it."""
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        for name, columns in {"runs": "run_uuid, name, status", "tags": "run_uuid, key, value", "params": "run_uuid, key, value"}.items():
            database.execute(f"create table {name} ({columns})")
        database.execute("create table metrics (run_uuid, key, step, value)")
        database.execute("create table model_versions (run_id)")
        database.executemany("insert into runs values (?, ?, 'FINISHED')", [(f"{folder}1", "demo"), (f"{folder}2", "checkpoints")])
        database.execute("insert into tags values (?, 'mlflow.parentRunId', ?)", (f"{folder}2", f"{folder}1"))
        database.executemany("insert into params values (?, ?, ?)", [(f"{folder}1", "output", f"{folder}"), (f"{folder}2", "epochs", "2")])
        database.executemany("insert into metrics values (?, 'loss', 20, ?)", [(f"{folder}2", loss)] * twice)
        database.commit()
    return folder / "mlflow.db"


def test_what_a_store_recorded_is_compared_run_by_run(tmp_path: Path) -> None:
    expected = store(tmp_path / "expected", 0.25)
    assert same.differences_recorded(store(tmp_path / "same", 0.25), expected) == []
    unlike = ["demo/checkpoints: /metrics/loss 20 is 0.5, expected 0.25"]
    assert same.differences_recorded(store(tmp_path / "other", 0.5), expected) == unlike
    (twice,) = same.differences_recorded(store(tmp_path / "twice", 0.25, twice=2), expected)
    assert twice == "demo/checkpoints: /metrics twice has 1 entries, expected 0"
