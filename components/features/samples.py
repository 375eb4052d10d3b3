"""From checked interactions to samples: one pure function for a block that holds all rows of its users."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from components.features.history import Histories, earlier_rows, latest
from components.features.numeric import numbers
from components.types import FieldKind, Schema

# Of every sample; context fields follow.
SAMPLE_COLUMNS = (
    "user_id",
    "item_id",
    "timestamp_s",
    "rating",
    "label",
    "user_row",
    "item_row",
    "history_rows",
    "history_ratings",
    "earlier_count",
)


def to_samples(block: pd.DataFrame, schema: Schema, history_length: int, min_history: int, hide_same_second: bool) -> pa.Table:
    """Label a block of clean interactions and attach each row's history; rows with a shorter history than allowed are left out.

    Expects `user_row` and `item_row`, the user's and the item's rows in the prepared tables. Returns samples in the order
    (user, time, item).
    """
    user_row, time_s, item_row = (block[name].to_numpy() for name in ("user_row", "timestamp_s", "item_row"))
    order = time_order(user_row, time_s, item_row)
    first, stop = earlier_rows(user_row[order], time_s[order], hide_same_second)
    return samples_at(np.flatnonzero(stop - first >= min_history), block.iloc[order], schema, first, stop, history_length)


def samples_at(
    rows: NDArray[np.int64], block: pd.DataFrame, schema: Schema, first: NDArray, stop: NDArray, history_length: int
) -> pa.Table:
    """Return the samples of some rows of a sorted block, whose earlier rows are `first` to `stop`."""
    found = latest(first[rows], stop[rows], history_length)
    return sample_table(block.iloc[rows], schema, found, block["item_row"].to_numpy(np.int32), block["rating"].to_numpy(np.float32))


def time_order(user_row: NDArray, timestamp_s: NDArray, item_row: NDArray) -> NDArray[np.int64]:
    """Return the places of a block's rows in the order (user, time, item); equal rows keep theirs."""
    return np.lexsort((item_row, timestamp_s, user_row))


def sample_table(
    block: pd.DataFrame, schema: Schema, found: Histories, event_items: NDArray[np.int32], event_ratings: NDArray[np.float32]
) -> pa.Table:
    """Build the sample columns of a sorted block from its histories, which index the events."""
    rating = block["rating"].to_numpy(np.float32)
    columns = {
        "user_id": pa.array(block["user_id"], pa.string()),
        "item_id": pa.array(block["item_id"], pa.string()),
        "timestamp_s": pa.array(block["timestamp_s"].to_numpy(np.int64)),
        "rating": pa.array(rating),
        "label": pa.array((rating > schema.positive_above).astype(np.int8)),
        "user_row": pa.array(block["user_row"].to_numpy(np.int32)),
        "item_row": pa.array(block["item_row"].to_numpy(np.int32)),
        "history_rows": _lists(found.offsets, event_items[found.index]),
        "history_ratings": _lists(found.offsets, event_ratings[found.index]),
        "earlier_count": pa.array(found.earlier_count),
        **{field.name: _context(block.loc[:, field.name], field.kind) for field in schema.context_fields},
    }
    return pa.table(columns)


def _context(column: pd.Series, kind: FieldKind) -> pa.Array:
    if kind is FieldKind.NUMERIC:
        return pa.array(numbers(column), pa.float64(), from_pandas=True)
    return pa.array(column, pa.list_(pa.string()) if kind is FieldKind.TAGS else pa.string(), from_pandas=True)


def _lists(offsets: NDArray[np.int32], values: NDArray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
