"""Checked interactions, a block at a time: what there is in it, where its rows belong, and what a user's rows are together.

Pure functions of Arrow tables; a block is what one task holds in memory. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.datasets import checks
from components.features.history import earlier_rows
from components.features.samples import time_order
from components.features.split import BINS, time_bins
from components.types import Schema

KEY = ["user_row", "item_row", "timestamp_s"]


@dataclass(frozen=True)
class Seen:
    """What a block of checked interactions holds."""

    rows: int
    bad: pd.DataFrame  # in the columns of the quarantine
    users: list[str]  # ids in good rows, each once
    items: list[str]
    files: list[str]
    times_s: tuple[int, int] | None  # first and last of the good rows


@dataclass(frozen=True)
class Directory:
    """Ids and names by their number."""

    users: pa.Array
    items: pa.Array
    files: pa.Array


@dataclass(frozen=True)
class Times:
    """How many samples there will be, by time: in each bin of `split.time_bins` that has any."""

    bins: NDArray[np.int64]
    rows: NDArray[np.int64]


def marked(chunk: pd.DataFrame, reasons: pd.Series, schema: Schema) -> pa.Table:
    """Keep what samples need of a raw chunk, with the reason of each bad row and that row's content."""
    names = ["user_id", "item_id", "rating", "timestamp_s", "file", "row", *(field.name for field in schema.context_fields)]
    if schema.shipped_split:
        names += ["split", "history_items"]
    bad = reasons != ""
    kept = chunk[names].assign(reason=reasons, content="")
    if bad.any():
        kept.loc[bad, "content"] = checks.quarantined(chunk.loc[bad], reasons.loc[bad], "interactions")["content"].to_numpy()
    kept["timestamp_s"] = kept["timestamp_s"].where(~bad, 0).astype("int64")
    # Arrow keeps lists as lists; a pandas block would turn them into tensors.
    return pa.Table.from_pandas(kept, preserve_index=False)


def look(table: pa.Table) -> Seen:
    """Find the bad rows of a block, and which users, items and times are in the good ones."""
    good = _good(table)
    bad = table.filter(pc.field("reason") != "").select(["file", "row", "reason", "content"]).to_pandas()
    bad.insert(0, "table", "interactions")
    users, items, files = (good[name].unique().to_pylist() for name in ("user_id", "item_id", "file"))
    time_s = good["timestamp_s"].to_numpy()
    return Seen(table.num_rows, bad, users, items, files, (int(time_s.min()), int(time_s.max())) if len(time_s) else None)


def scatter(table: pa.Table, directory: Directory, partitions: int) -> list[pa.Table]:
    """Number the good rows' users, items and files, and cut the block by the partition of the user."""
    good = _good(table)
    numbers = {
        name: _numbers(known, good[column])
        for name, column, known in (
            ("user_row", "user_id", directory.users),
            ("item_row", "item_id", directory.items),
            ("file_row", "file", directory.files),
        )
    }
    kept = good.drop_columns(["user_id", "item_id", "file", "reason", "content"])
    for name, values in numbers.items():
        kept = kept.append_column(name, pa.array(values))
    if partitions == 1:
        return [kept]
    part = numbers["user_row"] % partitions
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part, minlength=partitions))
    return [kept.take(pa.array(rows)) for rows in np.split(order, ends[:-1])]


def settle(
    directory: Directory,
    schema: Schema,
    cut: tuple[int, int],
    times_s: tuple[int, int],
    min_history: int,
    hide_same_second: bool,
    *tables: pa.Table,
) -> tuple[list[pa.Table], pd.DataFrame, Times]:
    """Bring the users of a partition together, in buckets that fit into memory: without copies, in the order (user, time, item).

    Returns the buckets, the copies in the columns of the quarantine, and the samples by time where the data set ships no split.
    `cut` are the partitions and the buckets of each, `times_s` the first and the last time that any row of the data set has.
    """
    whole = pa.concat_tables(tables).combine_chunks()
    found: list[pa.Table] = []
    bad: list[pd.DataFrame] = []
    bins = np.zeros(BINS, np.int64)
    for bucket in _buckets(whole, *cut):
        user_row, item_row, time_s = (bucket[name].to_numpy() for name in KEY)
        order = time_order(user_row, time_s, item_row)
        later, told = _copies(bucket, order, directory)
        bad.append(told)
        rows = bucket.take(pa.array(order[~later])).drop_columns(["file_row", "row"])
        found.append(rows)
        if not schema.shipped_split:
            user, rows_s = rows["user_row"].to_numpy(), rows["timestamp_s"].to_numpy()
            first, stop = earlier_rows(user, rows_s, hide_same_second)
            kept_s = rows_s[stop - first >= min_history]
            bins += np.bincount(time_bins(*times_s, kept_s), minlength=BINS)
    return found, pd.concat(bad, ignore_index=True), Times(np.flatnonzero(bins), bins[bins > 0])


def keys_inside(
    buckets: list[pa.Table], bins: list[int], times_s: tuple[int, int], min_history: int, hide_same_second: bool
) -> pd.DataFrame:
    """Return the keys of the samples whose times fall into some bins."""
    found: list[pd.DataFrame] = []
    for bucket in buckets:
        user_row, _, time_s = (bucket[name].to_numpy() for name in KEY)
        first, stop = earlier_rows(user_row, time_s, hide_same_second)
        wanted = (stop - first >= min_history) & np.isin(time_bins(*times_s, time_s), bins)
        found.append(bucket.select(KEY).filter(pa.array(wanted)).to_pandas())
    return pd.concat(found, ignore_index=True)


def _good(table: pa.Table) -> pa.Table:
    return table if pc.all(pc.equal(table["reason"], "")).as_py() else table.filter(pc.field("reason") == "")  # pyright: ignore


def _numbers(known: pa.Array, values: pa.ChunkedArray) -> NDArray[np.int32]:
    return pc.index_in(values, known).to_numpy().astype(np.int32)  # pyright: ignore


def _buckets(table: pa.Table, partitions: int, buckets: int) -> Iterator[pa.Table]:
    """Yield the rows of each bucket of a partition's users that has any."""
    if buckets == 1:
        yield table
        return
    bucket = table["user_row"].to_numpy() // partitions % buckets
    for number in np.unique(bucket):
        yield table.filter(pa.array(bucket == number))


def _copies(bucket: pa.Table, order: NDArray[np.int64], directory: Directory) -> tuple[NDArray[np.bool_], pd.DataFrame]:
    """Tell which rows, in this order, are copies of a row that stands earlier in the files, and why."""
    ordered = [bucket[name].to_numpy()[order] for name in KEY]
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in ordered])  # as the row before
    later = np.zeros(len(order), np.bool_)
    suspects = np.flatnonzero(np.r_[same, False] | np.r_[False, same])
    if not len(suspects):
        return later, pd.DataFrame()
    rows = bucket.take(pa.array(order[suspects]))
    ids = {"user_id": directory.users.take(rows["user_row"]), "item_id": directory.items.take(rows["item_row"])}
    frame = rows.drop_columns(["user_row", "item_row", "file_row"]).to_pandas()
    for place, (name, values) in enumerate(ids.items()):
        frame.insert(place, name, values.to_pandas())
    frame.insert(4, "file", directory.files.take(rows["file_row"]).to_pandas())
    reasons = checks.duplicate_reasons(frame, ["user_id", "item_id", "timestamp_s"])
    bad = (reasons != "").to_numpy()
    later[suspects] = bad
    return later, checks.quarantined(frame.loc[bad], reasons.loc[bad], "interactions")
