from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.datasets.collm import CollmMl1m
from components.errors import DataError
from components.types import Source
from tests.components.datasets.samples import packed_json, write_collm

Whole = Callable[[tuple[Source, ...]], pd.DataFrame]


def read(folder: Path | str, whole: Whole) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = CollmMl1m(CollmMl1m.Config()).read(str(folder))
    return whole(tables.interactions), whole(tables.items)


def row(**changes: Any) -> dict[str, Any]:
    return {"uid": 1, "iid": 5, "label": 1, "timestamp": 9, "title": "Five", "his": [0], "his_title": [""]} | changes


def write(folder: Path, *rows: dict[str, Any]) -> None:
    for name in ("train", "valid", "test"):
        packed_json(folder / f"{name}.jsonl.gz", list(rows))


def test_labels_times_splits_and_histories_are_read_as_published(tmp_path: Path, whole: Whole) -> None:
    write_collm(tmp_path)
    interactions, _ = read(tmp_path, whole)
    assert interactions["split"].value_counts().to_dict() == {"train": 6, "valid": 2, "test": 2}
    last = interactions.iloc[-1]
    assert (last["user_id"], last["item_id"], last["rating"], last["timestamp_s"]) == ("2", "5", 1.0, 978_300_005.0)
    assert list(last["history_items"]) == ["1", "2", "3", "4"]  # the pad 0 is dropped
    assert (last["file"], last["row"]) == ("test.jsonl.gz", 2)


def test_the_publishers_marks_are_never_columns(tmp_path: Path, whole: Whole) -> None:
    write_collm(tmp_path)
    interactions, items = read(tmp_path, whole)
    assert {"flag", "not_cold"}.isdisjoint([*interactions.columns, *items.columns])


def test_items_come_from_rows_and_from_histories(tmp_path: Path, whole: Whole) -> None:
    write(tmp_path, row(his=[0, 3, 7], his_title=["", "Three", ""]))
    _, items = read(tmp_path, whole)
    assert dict(zip(items["item_id"], items["title"], strict=True)) == {"5": "Five", "3": "Three", "7": "item 7"}
    assert set(items["file"]) == {"train.jsonl.gz"}


def test_a_title_found_later_is_better_than_none(tmp_path: Path, whole: Whole) -> None:
    write(tmp_path, row(title=None), row(iid=6, title="Six", his=[0, 5], his_title=["", "Five"]))
    _, items = read(tmp_path, whole)
    assert dict(zip(items["item_id"], items["title"], strict=True)) == {"5": "Five", "6": "Six"}


def test_a_broken_row_stays_and_its_history_is_missing(tmp_path: Path, whole: Whole) -> None:
    write(tmp_path, row(), row(uid=None, label="x", his="none"), row(his=[0, 2], his_title=["", "Two"]))
    interactions, items = read(tmp_path, whole)
    assert len(interactions) == 9
    assert interactions["user_id"].isna().sum() == interactions["rating"].isna().sum() == interactions["history_items"].isna().sum() == 3
    assert sorted(items["item_id"]) == ["2", "5"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing: train\.jsonl\.gz, valid\.jsonl\.gz, test\.jsonl\.gz"):
        CollmMl1m(CollmMl1m.Config()).read(str(tmp_path))


def test_the_real_split_is_whole(shared_data: Callable[[str], str], whole: Whole) -> None:
    interactions, items = read(shared_data("ml-1m-collm-ctr"), whole)
    assert interactions["split"].value_counts().to_dict() == {"train": 33_891, "valid": 10_401, "test": 7_331}
    assert not interactions.isna().any(axis=None)
    assert len(items) == 3_255
    assert items["item_id"].is_unique
    assert set(interactions["item_id"]) <= set(items["item_id"])
    assert set().union(*interactions["history_items"]) <= set(items["item_id"])
    assert not items["title"].str.startswith("item ").any()
