"""Settled interactions -> samples with labels and histories, written as one part of each split. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components import artifacts
from components.features.counts import Counted, count
from components.features.history import earlier_rows
from components.features.interactions import KEY, Directory
from components.features.part_file import open_part, write_rows
from components.features.samples import samples_at
from components.features.shipped import shipped_samples
from components.features.split import SPLITS, Cut, is_before
from components.types import Schema


@dataclass(frozen=True)
class Protocol:
    """How interactions become samples; `cuts` divide them in time where the data set ships no split."""

    schema: Schema
    history_length: int
    min_history: int
    hide_same_second: bool
    cuts: tuple[Cut, ...]


def split_samples(buckets: Sequence[pa.Table], directory: Directory, protocol: Protocol) -> Iterator[tuple[str, pa.Table]]:
    """Yield the samples of each bucket that `settle` returned, split by split, with the split's name."""
    for bucket in buckets:
        block = _named(bucket, directory)
        if protocol.schema.shipped_split:
            samples = shipped_samples(block, protocol.schema, protocol.history_length, pd.Index(directory.items.to_pandas()))
            names = samples["split"].to_numpy(zero_copy_only=False)
            for name in SPLITS:
                yield name, samples.filter(pa.array(names == name)).drop_columns(["split"])
            continue
        user_row, _, time_s = (block[name].to_numpy() for name in KEY)
        first, stop = earlier_rows(user_row, time_s, protocol.hide_same_second)
        enough = stop - first >= protocol.min_history
        part = len(protocol.cuts) - sum(is_before(cut, block).astype(np.int64) for cut in protocol.cuts)
        for number, name in enumerate(SPLITS):
            rows = np.flatnonzero(enough & (part == number))
            yield name, samples_at(rows, block, protocol.schema, first, stop, protocol.history_length)


def write_part(
    buckets: Sequence[pa.Table], directory: Directory, protocol: Protocol, uri: str, number: int
) -> tuple[dict[str, int], list[Counted]]:
    """Write `part-<number>.parquet` below `uri` for each split; return the rows of each, and what is counted of those that train."""
    rows: dict[str, int] = dict.fromkeys(SPLITS, 0)
    counted: list[Counted] = []
    with contextlib.ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        for split, samples in split_samples(buckets, directory, protocol):
            if not samples.num_rows:
                continue
            if split not in writers:
                writers[split] = stack.enter_context(open_part(artifacts.join(uri, split), number, samples.schema))
            write_rows(writers[split], samples)
            rows[split] += samples.num_rows
            if split == "train":
                counted.append(count(samples, protocol.schema))
    return rows, counted


def _named(bucket: pa.Table, directory: Directory) -> pd.DataFrame:
    """Give each interaction the ids of its user and its item back."""
    ids = {"user_id": directory.users.take(bucket["user_row"]), "item_id": directory.items.take(bucket["item_row"])}
    return bucket.to_pandas().assign(**{name: values.to_pandas() for name, values in ids.items()})
