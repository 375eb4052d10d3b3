from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.datasets.amazon import Amazon
from components.datasets.raw.kcore import k_core
from components.errors import ConfigError, DataError
from components.types import Source
from tests.components.datasets.samples import lines, packed_json, review, write_amazon

Whole = Callable[[tuple[Source, ...]], pd.DataFrame]


def read(folder: Path, whole: Whole, **settings: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    tables = Amazon(Amazon.Config(**settings)).read(str(folder))
    return whole(tables.interactions), whole(tables.items)


def write_json(path: Path, *rows: dict[str, Any]) -> None:
    lines(path, [json.dumps(row) for row in rows], "utf-8")


def test_reviews_of_2014_are_read(tmp_path: Path, whole: Whole) -> None:
    write_amazon(tmp_path)
    interactions, _ = read(tmp_path, whole, k_core=2)
    first = interactions.iloc[0].to_dict()
    expected = {"user_id": "U1", "item_id": "B1", "rating": 1.0, "timestamp_s": 978_300_001.0, "file": "reviews_Tiny_5.json.gz", "row": 1}
    assert first == expected


def test_reviews_of_2023_are_read_by_their_parent_item_in_milliseconds(tmp_path: Path, whole: Whole) -> None:
    row = {"user_id": "AE", "asin": "B1-red", "parent_asin": "B1", "rating": 4.0, "timestamp": 1_588_687_728_923, "title": "Nice"}
    write_json(tmp_path / "Music.jsonl", row)
    write_json(
        tmp_path / "meta_Music.jsonl",
        {"parent_asin": "B1", "title": "Guitar", "store": "Yamaha", "price": "from 5", "categories": ["Music"]},
    )
    interactions, items = read(tmp_path, whole, k_core=0)
    assert interactions.iloc[0][["user_id", "item_id", "rating", "timestamp_s"]].tolist() == ["AE", "B1", 4.0, 1_588_687_728.0]
    item = items.iloc[0]
    assert (item["item_id"], item["title"], item["brand"], list(item["categories"])) == ("B1", "Guitar", "Yamaha", ["Music"])


def test_metadata_may_be_python_literals_with_categories_in_groups(tmp_path: Path, whole: Whole) -> None:
    write_amazon(tmp_path)
    item = {"asin": "B1", "title": 'Drum\'s "kit"', "price": 9.5, "brand": "Pearl", "categories": [["Music", "Drums"], ["Music", "Kits"]]}
    lines(tmp_path / "meta_Tiny.json", [repr(item)], "utf-8")
    _, items = read(tmp_path, whole, k_core=2)
    first = items.iloc[0]
    assert (first["title"], first["brand"], first["price"]) == ('Drum\'s "kit"', "Pearl", 9.5)
    assert list(first["categories"]) == ["Music", "Drums", "Kits"]


def test_an_item_without_a_title_or_without_metadata_is_named_by_its_id(tmp_path: Path, whole: Whole) -> None:
    write_amazon(tmp_path)
    write_json(tmp_path / "meta_Tiny.json", {"asin": "B1", "title": ""}, {"asin": "B2"}, {"asin": "B3", "title": "Three"})
    _, items = read(tmp_path, whole, k_core=2)
    assert items["title"].tolist() == ["item B1", "item B2", "Three", "item B4", "item B5"]
    assert items["row"].tolist() == [1, 2, 3, 4, 5]  # B4 and B5 first stand in lines 4 and 5 of the reviews
    assert items["file"].tolist() == ["meta_Tiny.json"] * 3 + ["reviews_Tiny_5.json.gz"] * 2


def test_without_a_metadata_file_items_have_no_fields(tmp_path: Path, whole: Whole) -> None:
    write_amazon(tmp_path)
    (tmp_path / "meta_Tiny.json").unlink()
    tables = Amazon(Amazon.Config(k_core=0)).read(str(tmp_path))
    assert tables.schema.item_fields == ()
    assert whole(tables.items).columns.tolist() == ["item_id", "title", "file", "row"]


@pytest.mark.parametrize(
    ("price", "dollars"),
    [("$1,299.00", 1299.0), ("$10.99 - $20.99", 10.99), (5, 5.0), ("from 7", None), (".a-box { width: 3px }", None), (None, None)],
)
def test_the_lowest_price_is_read(price: object, dollars: float | None, tmp_path: Path, whole: Whole) -> None:
    write_amazon(tmp_path)
    write_json(tmp_path / "meta_Tiny.json", {"asin": "B1", "price": price})
    found = read(tmp_path, whole, k_core=2)[1]["price"][0]
    assert found == dollars or (dollars is None and found != found)


def test_the_core_keeps_users_and_items_with_enough_reviews(tmp_path: Path, whole: Whole) -> None:
    pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "z")]  # z is rare, without it c is rare too
    packed_json(tmp_path / "reviews.json.gz", [review(user, item, 5, 9) for user, item in pairs])
    interactions, items = read(tmp_path, whole, k_core=2)
    assert list(zip(interactions["user_id"], interactions["item_id"], strict=True)) == pairs[:4]
    assert interactions["row"].tolist() == [1, 2, 3, 4]
    assert items["item_id"].tolist() == ["x", "y"]
    assert len(read(tmp_path, whole, k_core=0)[0]) == 6


def test_a_broken_line_is_no_reason_to_stop_and_stays_a_row(tmp_path: Path, whole: Whole) -> None:
    write_amazon(tmp_path)
    rows = [json.dumps(review(user, item, 4, 9)) for user in "ab" for item in "xy"]
    bad = ["{broken", json.dumps(review("a", "x", "abc", "soon")), json.dumps({"asin": "x", "overall": 5.0, "unixReviewTime": 9})]
    (tmp_path / "reviews_Tiny_5.json.gz").unlink()
    lines(tmp_path / "reviews.json", [*rows, *bad], "utf-8")
    interactions, _ = read(tmp_path, whole, k_core=2)
    assert interactions["row"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert interactions["user_id"].isna().tolist() == [False] * 4 + [True, False, True]
    assert interactions["rating"].isna().tolist() == [False] * 4 + [True, True, False]
    assert interactions["timestamp_s"].isna().tolist() == [False] * 4 + [True, True, False]


def test_a_core_that_is_empty_is_refused(tmp_path: Path, whole: Whole) -> None:
    write_amazon(tmp_path)
    with pytest.raises(DataError, match="expected users and items with at least 6 reviews"):
        read(tmp_path, whole, k_core=6)


def test_the_core_is_found_once_and_not_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_amazon(tmp_path)
    passes: list[int] = []
    monkeypatch.setattr("components.datasets.amazon.k_core", lambda chunks, k: passes.append(k) or k_core(chunks, k))
    tables = Amazon(Amazon.Config(k_core=2)).read(str(tmp_path))
    assert passes == []  # a plan, or a run that has nothing to do, reads no review
    travelled = [pickle.loads(pickle.dumps(source)) for source in tables.interactions]
    assert sum(len(chunk) for source in travelled for chunk in source.read()) > 0
    assert passes == [2]


def test_a_folder_without_reviews_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta_Tiny.json").write_text("{}")
    with pytest.raises(DataError, match=rf"expected Amazon reviews, .* in the folder {tmp_path}; found none"):
        Amazon(Amazon.Config()).read(str(tmp_path))
    with pytest.raises(DataError, match=r"missing: mine\.json"):
        Amazon(Amazon.Config(reviews="mine.json")).read(str(tmp_path))


def test_reviews_with_other_keys_are_refused_with_the_keys_found(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"reviewerId": "a", "asin": "b", "overall": 5, "unixReviewTime": 9})
    with pytest.raises(DataError, match=r"expected a column 'reviewerID', found 'reviewerId', .* did you mean 'reviewerId'"):
        Amazon(Amazon.Config()).read(str(tmp_path))


def test_a_config_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.k_core: expected 0 or more, got -1"):
        Amazon.Config(k_core=-1)
    with pytest.raises(ConfigError, match=r"dataset\.positive_above"):
        Amazon.Config(positive_above=5)


def test_the_real_musical_instruments_are_whole(shared_data: Callable[[str], str], whole: Whole) -> None:
    tables = Amazon(Amazon.Config()).read(shared_data("amazon-musical-instruments-5"))
    interactions, items = whole(tables.interactions), whole(tables.items)
    assert len(interactions) == 10_261  # published as the 5-core: the filter takes nothing away
    assert (interactions["user_id"].nunique(), interactions["item_id"].nunique(), len(items)) == (1_429, 900, 900)
    assert not interactions.isna().any(axis=None)
