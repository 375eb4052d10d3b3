"""Interactions to samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from components.features.samples import to_samples
from components.types import Field, FieldKind, Schema

CONTEXT = (Field("device", FieldKind.CATEGORICAL), Field("wait", FieldKind.NUMERIC), Field("moods", FieldKind.TAGS))
SCHEMA = Schema(1.0, 5.0, positive_above=3.0, context_fields=CONTEXT)

# user, item, rating, time; unsorted; Ann has four interactions, two of them in second 8
BLOCK = pd.DataFrame(
    [
        ("bob", "i2", 4.0, 5, 1, 2, "phone", 1.5, ["calm"]),
        ("ann", "i3", 5.0, 9, 0, 3, "desk", "2", ["calm", "gay"]),
        ("ann", "i1", 3.0, 8, 0, 1, None, None, None),
        ("ann", "i0", 1.0, 8, 0, 0, "phone", np.inf, []),
        ("ann", "i2", 3.5, 7, 0, 2, "desk", "x", ["gay"]),
    ],
    columns=pd.Index(["user_id", "item_id", "rating", "timestamp_s", "user_row", "item_row", "device", "wait", "moods"]),
)


def samples(history_length: int = 2, min_history: int = 0, hide_same_second: bool = False, block: pd.DataFrame = BLOCK) -> pa.Table:
    return to_samples(block, SCHEMA, history_length, min_history, hide_same_second)


def test_samples_come_in_the_order_of_user_time_and_item() -> None:
    found = samples()
    assert found["item_id"].to_pylist() == ["i2", "i0", "i1", "i3", "i2"]
    assert found["user_id"].to_pylist() == ["ann", "ann", "ann", "ann", "bob"]
    assert found["timestamp_s"].to_pylist() == [7, 8, 8, 9, 5]


def test_ratings_above_the_threshold_are_clicks() -> None:
    found = samples()
    assert found["rating"].to_pylist() == [3.5, 1.0, 3.0, 5.0, 4.0]
    assert found["label"].to_pylist() == [1, 0, 0, 1, 1]


def test_histories_hold_the_latest_earlier_items_and_ratings_oldest_first() -> None:
    found = samples(history_length=2)
    assert found["history_rows"].to_pylist() == [[], [2], [2, 0], [0, 1], []]
    assert found["history_ratings"].to_pylist() == [[], [3.5], [3.5, 1.0], [1.0, 3.0], []]
    assert found["earlier_count"].to_pylist() == [0, 1, 2, 3, 0]


def test_items_of_the_same_second_can_be_hidden() -> None:
    found = samples(hide_same_second=True)
    assert found["history_rows"].to_pylist() == [[], [2], [2], [0, 1], []]
    assert found["earlier_count"].to_pylist() == [0, 1, 1, 3, 0]


def test_rows_with_a_short_history_are_dropped_but_stay_in_later_histories() -> None:
    found = samples(history_length=3, min_history=2)
    assert found["item_id"].to_pylist() == ["i1", "i3"]
    assert found["history_rows"].to_pylist() == [[2, 0], [2, 0, 1]]


def test_the_columns_have_the_types_that_later_stages_read() -> None:
    types = {field.name: field.type for field in samples().schema}
    assert types == {
        "user_id": pa.string(),
        "item_id": pa.string(),
        "timestamp_s": pa.int64(),
        "rating": pa.float32(),
        "label": pa.int8(),
        "user_row": pa.int32(),
        "item_row": pa.int32(),
        "history_rows": pa.list_(pa.int32()),
        "history_ratings": pa.list_(pa.float32()),
        "earlier_count": pa.int32(),
        "device": pa.string(),
        "wait": pa.float64(),
        "moods": pa.list_(pa.string()),
    }


def test_context_is_kept_and_what_is_no_number_is_missing() -> None:
    found = samples()
    assert found["device"].to_pylist() == ["desk", "phone", None, "desk", "phone"]
    assert found["wait"].to_pylist() == [None, None, None, 2.0, 1.5]
    assert found["moods"].to_pylist() == [["gay"], [], None, ["calm", "gay"], ["calm"]]


def test_the_order_of_the_block_does_not_matter() -> None:
    shuffled = BLOCK.iloc[[3, 0, 4, 2, 1]]
    assert samples(block=shuffled).equals(samples())


def test_no_interactions_give_no_samples_of_the_same_columns() -> None:
    found = samples(block=BLOCK.head(0))
    assert (found.num_rows, found.schema.names) == (0, samples().schema.names)
