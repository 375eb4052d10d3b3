"""Where users stand after their last sample, by hand and by a walk over all interactions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import ArtifactError
from components.features.latest import Histories, Standing, latest_histories, load_histories, save_histories
from components.features.samples import to_samples
from components.features.shipped import shipped_samples
from components.types import Schema

SCHEMA = Schema(1.0, 5.0, 3.0)
LENGTH = 3
Row = tuple[int, int, int, int, float, list[int]]  # user, time, earlier interactions, item, rating, history; ratings are 10 * item


def samples(*rows: Row) -> pa.Table:
    user, time_s, count, item, rating, history = zip(*rows, strict=True) if rows else ([], [], [], [], [], [])
    return pa.table(
        {
            "user_row": pa.array(user, pa.int32()),
            "timestamp_s": pa.array(time_s, pa.int64()),
            "earlier_count": pa.array(count, pa.int32()),
            "item_row": pa.array(item, pa.int32()),
            "rating": pa.array(rating, pa.float32()),
            "history_rows": pa.array(history, pa.list_(pa.int32())),
            "history_ratings": pa.array([[10.0 * one for one in items] for items in history], pa.list_(pa.float32())),
        }
    )


def latest(folder: Path, length: int = LENGTH, **splits: list[pa.Table]) -> dict[int, dict]:
    """Write the parts of each split and return what is found, by user."""
    for split in ("train", "valid", "test"):
        (folder / split).mkdir()
        for number, part in enumerate(splits.get(split, [])):
            pq.write_table(part, folder / split / f"part-{number}.parquet")
        if split not in splits:
            pq.write_table(samples(), folder / split / "part-0.parquet")
    found = latest_histories(str(folder), length)
    return {row.pop("user_row"): row for row in found.to_pylist()}


def standing(items: list[int], ratings: list[float], earlier_count: int, until_s: int) -> dict:
    return {"history_rows": items, "history_ratings": ratings, "earlier_count": earlier_count, "until_s": until_s}


def test_the_last_sample_joins_its_own_history(tmp_path: Path) -> None:
    found = latest(
        tmp_path,
        train=[samples((0, 10, 0, 7, 1.0, []), (0, 20, 1, 8, 2.0, [7]), (4, 15, 1, 3, 5.0, [9]))],
        valid=[samples((0, 30, 2, 9, 3.0, [7, 8]))],
        test=[samples((2, 40, 6, 1, 4.0, [5, 6, 7]))],
    )
    assert found == {
        0: standing([7, 8, 9], [70.0, 80.0, 3.0], 3, 30),
        2: standing([6, 7, 1], [60.0, 70.0, 4.0], 7, 40),  # one too many: the oldest goes
        4: standing([9, 3], [90.0, 5.0], 2, 15),
    }


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_order_of_parts_and_rows_does_not_matter(tmp_path: Path, order: list[int]) -> None:
    parts = [
        samples((0, 30, 2, 9, 3.0, [7, 8]), (1, 5, 0, 2, 2.0, [])),
        samples((1, 9, 1, 3, 4.0, [2]), (0, 10, 0, 7, 1.0, [])),
        samples((0, 20, 1, 8, 2.0, [7])),
    ]
    found = latest(tmp_path, train=[parts[number] for number in order])
    assert found == {0: standing([7, 8, 9], [70.0, 80.0, 3.0], 3, 30), 1: standing([2, 3], [20.0, 4.0], 2, 9)}


def test_within_one_second_the_longest_history_is_the_latest(tmp_path: Path) -> None:
    found = latest(tmp_path, train=[samples((0, 10, 1, 8, 2.0, [7]), (0, 10, 2, 9, 3.0, [7, 8]), (0, 10, 0, 7, 1.0, []))])
    assert found == {0: standing([7, 8, 9], [70.0, 80.0, 3.0], 3, 10)}


def test_a_longer_history_of_an_earlier_time_is_not_the_latest(tmp_path: Path) -> None:
    found = latest(tmp_path, train=[samples((0, 10, 5, 8, 2.0, [7]))], test=[samples((0, 20, 1, 9, 3.0, [6]))])
    assert found == {0: standing([6, 9], [60.0, 3.0], 2, 20)}


@pytest.mark.parametrize("turned", [False, True])
def test_samples_of_one_second_that_do_not_see_each_other_all_count(tmp_path: Path, turned: bool) -> None:
    together = [samples((0, 10, 1, 9, 3.0, [7])), samples((0, 10, 1, 8, 2.0, [7]), (0, 5, 0, 7, 1.0, []))]
    found = latest(tmp_path, train=together[::-1] if turned else together, valid=[samples((0, 10, 1, 6, 4.0, [7]))], length=10)
    assert found == {0: standing([7, 6, 8, 9], [70.0, 4.0, 2.0, 3.0], 4, 10)}


@pytest.mark.parametrize("length", [1, 4, 30])
@pytest.mark.parametrize("hide_same_second", [False, True])
def test_of_a_whole_data_set_it_is_the_end_of_each_users_interactions(tmp_path: Path, length: int, hide_same_second: bool) -> None:
    random = np.random.default_rng(length)
    rows = pd.DataFrame(
        {
            "user_row": random.integers(0, 12, 300),
            "item_row": random.integers(0, 40, 300),
            "rating": random.integers(1, 6, 300).astype(float),
            "timestamp_s": random.integers(0, 60, 300),  # many share a second
        }
    ).drop_duplicates(["user_row", "item_row"])
    rows = rows.assign(user_id=rows["user_row"].astype(str), item_id=rows["item_row"].astype(str))
    table = to_samples(rows, SCHEMA, length, 0, hide_same_second)
    table = table.take(pa.array(random.permutation(table.num_rows)))
    cuts = [table.slice(0, 100), table.slice(100, 50), table.slice(150)]
    found = latest(tmp_path, length, train=cuts[:1], valid=cuts[1:2], test=[cuts[2].slice(0, 30), cuts[2].slice(30)])
    expected = {}
    for user, events in rows.sort_values(["timestamp_s", "item_row"]).groupby("user_row"):
        last = events.tail(length)
        expected[user] = standing(last["item_row"].tolist(), last["rating"].tolist(), len(events), int(last["timestamp_s"].iloc[-1]))
    assert found == expected


def test_shipped_histories_are_continued_too(tmp_path: Path) -> None:
    block = pd.DataFrame(
        [
            ("a", 10, 1.0, "train", []),
            ("b", 20, 0.0, "train", ["a"]),
            ("c", 30, 1.0, "valid", ["a"]),
            ("d", 40, 0.0, "test", ["a", "c"]),
        ],
        columns=pd.Index(["item_id", "timestamp_s", "rating", "split", "history_items"]),
    ).assign(user_id="u", user_row=3, item_row=range(4))
    table = shipped_samples(block, Schema(0.0, 1.0, 0.5, shipped_split=True), 5, pd.Index(list("abcd")))
    by_split = {name: [table.filter(pa.compute.equal(table["split"], name)).drop_columns(["split"])] for name in ("train", "valid", "test")}
    # What training shows (a and b), and the last sample itself; c of validation stays hidden.
    assert latest(tmp_path, 5, **by_split) == {3: standing([0, 1, 3], [1.0, 0.0, 0.0], 3, 40)}


def test_histories_come_back_from_disk_by_user(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    latest(tmp_path, train=[samples((5, 10, 3, 7, 1.0, [1, 2]), (2, 20, 0, 8, 2.0, []), (9, 1, 9, 4, 4.0, [4, 4, 4]))])
    table = latest_histories(str(tmp_path), LENGTH)
    save_histories(table, str(tmp_path / "out"))
    for histories in (Histories(table), load_histories(str(tmp_path / "out"))):
        assert_standing(histories.of(5), [1, 2, 7], [10.0, 20.0, 1.0], 4, 10)
        assert_standing(histories.of(2), [8], [2.0], 1, 20)
        assert_standing(histories.of(9), [4, 4, 4], [40.0, 40.0, 4.0], 10, 1)
        assert [histories.of(row) for row in (-1, 0, 3, 10)] == [None] * 4


def test_histories_can_live_in_an_object_store_and_in_chunks(tmp_path: Path) -> None:
    first = latest(tmp_path, train=[samples((1, 10, 1, 7, 1.0, [3]))])
    assert first
    one = latest_histories(str(tmp_path), LENGTH)
    other = one.set_column(0, "user_row", pa.array([8], pa.int32())).set_column(
        2, "history_ratings", pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
    )
    save_histories(pa.concat_tables([one, other]), "memory://bucket/latest-test")
    for histories in (load_histories("memory://bucket/latest-test"), Histories(pa.concat_tables([one, other]))):
        assert_standing(histories.of(1), [3, 7], [30.0, 1.0], 2, 10)
        assert_standing(histories.of(8), [3, 7], [1.0, 2.0], 2, 10)


def test_without_any_sample_nobody_stands_anywhere(tmp_path: Path) -> None:
    assert latest(tmp_path) == {}
    assert Histories(latest_histories(str(tmp_path), LENGTH)).of(0) is None


def test_a_split_without_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"expected Parquet files below .*/train, got none"):
        latest_histories(str(tmp_path), LENGTH)


def assert_standing(found: Standing | None, items: list[int], ratings: list[float], earlier_count: int, until_s: int) -> None:
    assert found is not None
    assert (found.item_rows.tolist(), found.ratings.tolist()) == (items, ratings)
    assert (found.earlier_count, found.until_s) == (earlier_count, until_s)
