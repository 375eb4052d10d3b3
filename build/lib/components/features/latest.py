"""Where each user stands after the last sample of a prepared data set: the history that the next request sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import artifacts
from components.features.split import SPLITS
from components.features.tables import dataset

ORDER = ["user_row", "timestamp_s", "earlier_count"]
READ = [*ORDER, "item_row", "rating", "history_rows", "history_ratings"]
FILE = "histories.parquet"


@dataclass(frozen=True)
class Standing:
    """What is known of one user's past."""

    item_rows: NDArray[np.int32]  # oldest first
    ratings: NDArray[np.float32]
    earlier_count: int  # all interactions, also those before `item_rows`
    until_s: int  # time of the last one


class Histories:
    """Every user's latest history, by the user's row."""

    def __init__(self, table: pa.Table) -> None:
        """`table` as `latest_histories` returns it."""
        self._position = {row: position for position, row in enumerate(table["user_row"].to_pylist())}
        lists = [table[name].combine_chunks() for name in ("history_rows", "history_ratings")]
        lists = [chunks.combine_chunks() if isinstance(chunks, pa.ChunkedArray) else chunks for chunks in lists]
        self._offsets = lists[0].offsets.to_numpy()
        self._rows, self._ratings = (values.values.to_numpy() for values in lists)
        self._count, self._until_s = table["earlier_count"].to_numpy(), table["until_s"].to_numpy()

    def of(self, user_row: int) -> Standing | None:
        """Return a user's history, None where no sample shows one."""
        position = self._position.get(user_row)
        if position is None:
            return None
        part = slice(self._offsets[position], self._offsets[position + 1])
        return Standing(self._rows[part], self._ratings[part], int(self._count[position]), int(self._until_s[position]))


def latest_histories(tables: str, history_length: int) -> pa.Table:
    """Return a row for each user with samples: `user_row`, `history_rows` and `history_ratings` (oldest first), `earlier_count` (all
    interactions so far) and `until_s`, the time of the last one.

    It streams over the samples and holds what grows with the number of users alone.
    """
    last: NDArray[np.int64] = np.zeros((0, 2), np.int64)  # timestamp_s and earlier_count of each user's last sample
    for batch in _batches(tables, ORDER):
        last = _later(last, *(batch[name].to_numpy() for name in ORDER))
    rows: list[pa.Table] = []
    for batch in _batches(tables, READ):
        user, timestamp_s, earlier_count = (batch[name].to_numpy() for name in ORDER)
        is_last = (last[user, 0] == timestamp_s) & (last[user, 1] == earlier_count)
        rows.append(batch.filter(pa.array(is_last)))
    found = pa.concat_tables(rows)
    order = np.lexsort((found["item_row"].to_numpy(), found["user_row"].to_numpy()))  # as samples lie, whichever part they come from
    return _with_last(found.take(pa.array(order)), history_length)


def save_histories(histories: pa.Table, uri: str) -> None:
    """Write the histories below `uri`."""
    with fsspec.open(artifacts.join(uri, FILE), "wb") as file:
        pq.write_table(histories, file)


def load_histories(uri: str) -> Histories:
    """Read back what `save_histories` wrote."""
    with fsspec.open(artifacts.join(uri, FILE), "rb") as file:
        return Histories(pq.read_table(file))


def _batches(tables: str, columns: list[str]) -> Iterator[pa.Table]:
    for split in SPLITS:
        for batch in dataset(artifacts.join(tables, split)).to_batches(columns=columns):
            yield pa.Table.from_batches([batch])


def _later(last: NDArray[np.int64], user: NDArray, timestamp_s: NDArray, earlier_count: NDArray) -> NDArray[np.int64]:
    """Return the latest (time, count) of each user row, from what was found so far and another batch."""
    grown = np.full((max(len(last), int(user.max(initial=-1)) + 1), 2), np.iinfo(np.int64).min)
    grown[: len(last)] = last
    order = np.lexsort((earlier_count, timestamp_s, user))
    user, found = user[order], np.stack([timestamp_s[order], earlier_count[order]], 1).astype(np.int64)
    at_end = np.r_[user[1:] != user[:-1], True][: len(user)]
    user, found = user[at_end], found[at_end]
    later = (found[:, 0] > grown[user, 0]) | ((found[:, 0] == grown[user, 0]) & (found[:, 1] > grown[user, 1]))
    grown[user[later]] = found[later]
    return grown


def _with_last(samples: pa.Table, history_length: int) -> pa.Table:
    """Add each user's last samples themselves to their history: several where those of one second do not see each other."""
    user, first, count = np.unique(samples["user_row"].to_numpy(), return_index=True, return_counts=True)
    before = samples.select(["history_rows", "history_ratings"]).take(pa.array(first)).to_pydict()
    item, rating = samples["item_row"].to_pylist(), samples["rating"].to_pylist()
    rows: list[list[int]] = []
    ratings: list[list[float]] = []
    for history, given, start, size in zip(*before.values(), first.tolist(), count.tolist(), strict=True):
        rows.append([*history, *item[start : start + size]][-history_length:])
        ratings.append([*given, *rating[start : start + size]][-history_length:])
    return pa.table(
        {
            "user_row": user,
            "history_rows": pa.array(rows, pa.list_(pa.int32())),
            "history_ratings": pa.array(ratings, pa.list_(pa.float32())),
            "earlier_count": samples["earlier_count"].to_numpy()[first] + count,
            "until_s": samples["timestamp_s"].to_numpy()[first],
        }
    )
