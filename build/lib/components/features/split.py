"""The global time split: the first 80 % of all rows train, the next 10 % validate, the rest test.

Rows are ordered by (time, user id, item id), so the split is exact to the row although many rows share a second. The
cut is found without sorting the table: each block counts its rows in time bins, and only the bin of a cut is sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")
BINS = 1 << 16


@dataclass(frozen=True)
class Cut:
    """The first row after a cut; rows that sort before it stay on its left."""

    timestamp_s: int
    user_row: int
    item_row: int


def split_sizes(rows: int, train_fraction: float = 0.8, valid_fraction: float = 0.1) -> tuple[int, int, int]:
    """Return the rows of train, valid and test: `int(0.8 n)`, `int(0.1 n)` and the rest (ReLLa's protocol)."""
    train, valid = int(train_fraction * rows), int(valid_fraction * rows)
    return train, valid, rows - train - valid


def time_bins(first_s: int, last_s: int, timestamp_s: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bin (0 to BINS - 1) of each time between the first and the last of the table."""
    return (timestamp_s - first_s) * BINS // (last_s - first_s + 1)


def bin_of_rank(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return the bin that holds the row of this rank in time order, and the row's rank inside the bin."""
    before = np.cumsum(counts)
    found = int(np.searchsorted(before, rank, side="right"))
    return found, int(rank - (before[found - 1] if found else 0))


def cut_at(keys: pd.DataFrame, rank: int) -> Cut:
    """Return the cut before the row of this rank among `keys` (timestamp_s, user_row, item_row)."""
    row = keys.sort_values(["timestamp_s", "user_row", "item_row"], kind="stable").iloc[rank]
    return Cut(int(row.timestamp_s), int(row.user_row), int(row.item_row))


def is_before(cut: Cut, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows of `frame` sort before the cut."""
    time, user, item = (frame[name].to_numpy() for name in ("timestamp_s", "user_row", "item_row"))
    same_time, same_user = time == cut.timestamp_s, user == cut.user_row
    return (time < cut.timestamp_s) | (same_time & (user < cut.user_row)) | (same_time & same_user & (item < cut.item_row))


def natural_key(ids: pd.Series) -> pd.Series:
    """Order ids as people do: numbers by value ("9" before "10"), all else by text after them."""
    width = 0 if ids.empty else int(ids.str.len().max())
    return ("1" + ids).where(~ids.str.fullmatch("[0-9]+"), "0" + ids.str.zfill(width))
