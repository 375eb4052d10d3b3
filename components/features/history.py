"""Histories: for each interaction, the same user's earlier ones. Computed for whole blocks, without a loop over rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Histories:
    """Ragged histories of N rows: row i owns `index[offsets[i]:offsets[i + 1]]`, positions in the block, oldest first."""

    offsets: NDArray[np.int32]  # [N + 1]
    index: NDArray[np.int64]
    earlier_count: NDArray[np.int32]  # [N], all earlier rows of the user, also those beyond the kept length


def histories(user: NDArray, timestamp_s: NDArray[np.int64], length: int, hide_same_second: bool = False) -> Histories:
    """Find the `length` latest earlier rows of each row's user in a block sorted by (user, time).

    A block must hold all rows of each of its users. Rows of one second keep their sorted order, as the published
    MovieLens protocol has it; `hide_same_second` treats them as simultaneous instead, so none sees the other.
    """
    first, stop = earlier_rows(user, timestamp_s, hide_same_second)
    return latest(first, stop, length)


def latest(first: NDArray[np.int64], stop: NDArray[np.int64], length: int) -> Histories:
    """Keep the `length` latest of the earlier rows `first` to `stop` of each row."""
    start = np.maximum(first, stop - length)
    kept = stop - start
    offsets = np.r_[0, np.cumsum(kept)]
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - start, kept)
    return Histories(offsets.astype(np.int32), index, (stop - first).astype(np.int32))


def earlier_rows(
    user: NDArray, timestamp_s: NDArray[np.int64], hide_same_second: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each row of a block as `histories` takes it, where its user's earlier rows begin and end."""
    rows = np.arange(len(user))
    new_user = np.r_[True, user[1:] != user[:-1]]
    user_start = np.maximum.accumulate(np.where(new_user, rows, 0))
    stop = rows
    if hide_same_second:
        new_moment = new_user | np.r_[True, timestamp_s[1:] != timestamp_s[:-1]]
        stop = np.maximum.accumulate(np.where(new_moment, rows, 0))
    return user_start, stop


def pad_left(values: NDArray, offsets: NDArray, length: int, fill: float) -> NDArray:
    """Turn ragged rows into [N, length], the latest entries kept and placed last, `fill` before them."""
    start, stop = offsets[:-1], offsets[1:]
    position = stop[:, None] - length + np.arange(length)
    inside = position >= start[:, None]
    padded = np.full(position.shape, fill, dtype=values.dtype)
    padded[inside] = values[position[inside]]
    return padded
