"""Settled interactions to written samples, and what is counted of those that train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.features.counts import Moments, Totals, count
from components.features.interactions import Directory
from components.features.sample_parts import Protocol, write_part
from components.features.split import Cut
from components.features.tables import read_samples
from components.types import Field, FieldKind, Schema

SCHEMA = Schema(1.0, 5.0, positive_above=3.0, context_fields=(Field("device", FieldKind.CATEGORICAL), Field("wait", FieldKind.NUMERIC)))
DIRECTORY = Directory(*(pa.array(names) for names in (["ann", "bob"], ["i0", "i1", "i2"], ["a.csv"])))
BUCKET = pa.table(
    {
        "rating": [1.0, 4.0, 5.0, 2.0, 3.0],
        "timestamp_s": [10, 20, 30, 12, 40],
        "device": ["phone", "desk", None, "desk", "phone"],
        "wait": [1.0, 3.0, None, 8.0, 9.0],
        "user_row": pa.array([0, 0, 0, 1, 1], pa.int32()),
        "item_row": pa.array([0, 1, 2, 1, 0], pa.int32()),
    }
)
PROTOCOL = Protocol(SCHEMA, 2, 0, False, (Cut(30, 0, 0), Cut(40, 0, 0)))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, int], Totals]:
    rows, counted = write_part([BUCKET, BUCKET.slice(0, 0)], DIRECTORY, PROTOCOL, str(tmp_path), 7)
    totals = Totals(2, 3, SCHEMA)
    totals.add(counted)
    return tmp_path, rows, totals


def test_each_split_has_its_rows_with_ids_labels_and_histories(written: tuple[Path, dict[str, int], Totals]) -> None:
    folder, rows, _ = written
    assert rows == {"train": 3, "valid": 1, "test": 1}
    assert [path.name for path in (folder / "train").iterdir()] == ["part-000007.parquet"]
    train = read_samples(str(folder / "train"))
    assert train["user_id"].to_pylist() == ["ann", "ann", "bob"]
    assert train["item_id"].to_pylist() == ["i0", "i1", "i1"]
    assert train["label"].to_pylist() == [0, 1, 0]
    assert train["history_rows"].to_pylist() == [[], [0], []]
    [valid] = read_samples(str(folder / "valid")).to_pylist()
    assert (valid["item_id"], valid["history_rows"], valid["history_ratings"], valid["earlier_count"]) == ("i2", [0, 1], [1.0, 4.0], 2)
    [test] = read_samples(str(folder / "test")).to_pylist()
    assert (test["user_id"], test["history_rows"]) == ("bob", [1])


def test_training_samples_alone_are_counted(written: tuple[Path, dict[str, int], Totals]) -> None:
    totals = written[2]
    assert totals.user_counts.tolist() == [2, 1]
    assert totals.item_counts.tolist() == [1, 2, 0]
    assert totals.item_sums.tolist() == [1.0, 6.0, 0.0]
    assert totals.context["device"].tolist() == ["desk", "phone"]
    assert totals.context["wait"].tolist() == pytest.approx([4.0 - np.sqrt(26 / 3), 4.0 + np.sqrt(26 / 3)])  # of 1, 3 and 8


def test_counts_of_blocks_add_up_to_those_of_the_whole(written: tuple[Path, dict[str, int], Totals]) -> None:
    folder, _, whole = written
    train, parts = read_samples(str(folder / "train")), Totals(2, 3, SCHEMA)
    parts.add(count(train.slice(start, 1), SCHEMA) for start in range(3))
    assert parts.item_sums.tolist() == whole.item_sums.tolist()
    assert parts.user_counts.tolist() == whole.user_counts.tolist()
    assert parts.context["wait"].tolist() == pytest.approx(whole.context["wait"].tolist())


def test_numbers_that_are_all_missing_have_no_moments() -> None:
    assert Moments.of(np.array([np.nan])) + Moments() == Moments()
    assert (Moments.of(np.array([2.0, np.nan, 4.0])) + Moments()).deviation == 1.0


def test_a_split_without_rows_has_no_file(tmp_path: Path) -> None:
    rows, _ = write_part([BUCKET.slice(0, 1)], DIRECTORY, PROTOCOL, str(tmp_path), 0)
    assert rows == {"train": 1, "valid": 0, "test": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
