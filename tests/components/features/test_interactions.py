"""Blocks of checked interactions: what is seen in them, where their rows go, and users brought together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from components.features.interactions import Directory, Times, keys_inside, look, marked, scatter, settle
from components.features.split import BINS
from components.types import Field, FieldKind, Schema

SCHEMA = Schema(1.0, 5.0, positive_above=3.0, context_fields=(Field("device", FieldKind.CATEGORICAL),))
# user, item, rating, time, row, device, reason
ROWS = [
    ("u1", "i2", 5.0, 300.0, 1, "phone", ""),
    ("u0", "i1", 4.0, 200.0, 2, "desk", ""),
    ("u1", "i0", 9.0, np.nan, 3, "desk", "rating out of range"),
    ("u1", "i0", 2.0, 100.0, 4, None, ""),
    ("u0", "i1", 1.0, 200.0, 5, "desk", ""),  # the user, item and time of row 2
    ("u2", "i2", 3.0, 900.0, 6, "desk", ""),
]
TIMES_S = (100, 900)
DIRECTORY = Directory(*(pa.array(names) for names in (["u0", "u1", "u2"], ["i0", "i1", "i2"], ["a.csv"])))


@pytest.fixture
def block() -> pa.Table:
    names = ["user_id", "item_id", "rating", "timestamp_s", "row", "device", "reason"]
    frame = pd.DataFrame(ROWS, columns=pd.Index(names)).assign(file="a.csv")
    return marked(frame.drop(columns="reason"), frame["reason"].astype("str"), SCHEMA)


def settled(block: pa.Table, buckets: int = 1, min_history: int = 0) -> tuple[list[pa.Table], pd.DataFrame, Times]:
    return settle(DIRECTORY, SCHEMA, (1, buckets), TIMES_S, min_history, False, *scatter(block, DIRECTORY, 1))


def keys(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in ("user_row", "timestamp_s", "item_row", "rating")) for row in table.to_pylist()]


def test_a_block_tells_its_bad_rows_and_what_the_good_ones_hold(block: pa.Table) -> None:
    seen = look(block)
    assert (seen.rows, sorted(seen.users), sorted(seen.items), seen.files) == (6, ["u0", "u1", "u2"], ["i0", "i1", "i2"], ["a.csv"])
    assert seen.times_s == (100, 900)
    [bad] = seen.bad.to_dict("records")
    assert (bad["table"], bad["file"], bad["row"], bad["reason"]) == ("interactions", "a.csv", 3, "rating out of range")
    assert '"rating":9.0' in bad["content"]


def test_a_block_of_bad_rows_alone_holds_no_user(block: pa.Table) -> None:
    seen = look(block.slice(2, 1))
    assert (seen.rows, seen.users, seen.times_s, len(seen.bad)) == (1, [], None, 1)


def test_each_user_is_in_one_partition_and_every_good_row_in_one(block: pa.Table) -> None:
    parts = scatter(block, DIRECTORY, 2)
    assert [sorted(set(part["user_row"].to_pylist())) for part in parts] == [[0, 2], [1]]
    assert [part["row"].to_pylist() for part in parts] == [[2, 5, 6], [1, 4]]  # in the order of the block
    assert [part.schema for part in parts] == [parts[0].schema] * 2


def test_users_come_together_in_the_order_of_time_without_copies(block: pa.Table) -> None:
    [bucket], copies, _ = settled(block)
    assert keys(bucket) == [(0, 200, 1, 4.0), (1, 100, 0, 2.0), (1, 300, 2, 5.0), (2, 900, 2, 3.0)]
    assert bucket["device"].to_pylist() == ["desk", None, "phone", "desk"]
    [copy] = copies.to_dict("records")
    assert (copy["row"], copy["reason"]) == (5, "duplicate of row 2 of a.csv")
    assert copy["content"] == '{"user_id":"u0","item_id":"i1","rating":1.0,"timestamp_s":200,"device":"desk"}'


def test_the_row_that_comes_first_in_the_files_is_the_one_that_stays(block: pa.Table) -> None:
    [bucket], copies, _ = settled(block.take(pa.array([5, 4, 3, 1, 0])))
    assert keys(bucket)[0] == (0, 200, 1, 4.0)
    assert copies["row"].tolist() == [5]


def test_buckets_hold_whole_users(block: pa.Table) -> None:
    buckets, _, times = settled(block, buckets=2)
    assert [bucket["user_row"].to_pylist() for bucket in buckets] == [[0, 2], [1, 1]]
    assert times.rows.sum() == 4


def test_samples_are_counted_by_time_where_the_history_is_long_enough(block: pa.Table) -> None:
    buckets, _, times = settled(block, min_history=1)
    [place] = times.bins.tolist()
    assert place == (300 - 100) * BINS // 801
    assert times.rows.tolist() == [1]
    found = keys_inside(buckets, [place], TIMES_S, 1, False)
    assert found.to_dict("records") == [{"user_row": 1, "item_row": 2, "timestamp_s": 300}]


def test_a_partition_without_copies_has_no_bad_rows(block: pa.Table) -> None:
    assert settled(block.slice(0, 2))[1].empty
