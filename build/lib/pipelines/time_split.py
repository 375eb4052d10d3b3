"""The global time split of samples that stream through Ray Data."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from ray.data import Dataset

from components.errors import DataError
from components.features import split
from pipelines.cluster import map_tables, tables_of

KEYS = ["timestamp_s", "user_row", "item_row"]


def with_split(samples: Dataset, train_fraction: float, valid_fraction: float) -> Dataset:
    """Add the column `split`: the earliest samples train, the next ones validate, the latest test."""
    rows = samples.count()
    sizes = split.split_sizes(rows, train_fraction, valid_fraction)
    if min(sizes) < 1:
        raise DataError(f"expected samples for train, valid and test, got {rows} with enough earlier interactions (--prepare.min-history)")
    cuts = _cuts(samples, (sizes[0], sizes[0] + sizes[1]))

    def name(table: pa.Table) -> pa.Table:
        keys = table.select(KEYS).to_pandas()
        part = len(cuts) - np.stack([split.is_before(cut, keys) for cut in cuts]).sum(0)
        return table.append_column("split", pa.array(np.array(split.SPLITS)[part]))

    return map_tables(samples, name)


def _cuts(samples: Dataset, ranks: tuple[int, ...]) -> list[split.Cut]:
    """Find the cuts before the rows of these ranks in the order (time, user, item), without sorting the table."""
    keys = samples.select_columns(KEYS)
    first_s, last_s = (int(bound) for bound in (keys.min("timestamp_s"), keys.max("timestamp_s")))  # pyright: ignore[reportArgumentType]

    def bins(table: pa.Table) -> np.ndarray:
        return split.time_bins(first_s, last_s, table["timestamp_s"].to_numpy())

    def count(table: pa.Table) -> pa.Table:
        found, rows = np.unique(bins(table), return_counts=True)
        return pa.table({"bin": found, "rows": rows})

    counts = np.zeros(split.BINS, np.int64)
    for part in tables_of(map_tables(keys, count)):
        np.add.at(counts, part["bin"].to_numpy(), part["rows"].to_numpy())
    cuts: list[split.Cut] = []
    for rank in ranks:
        bin_number, rank_in_bin = split.bin_of_rank(counts, rank)
        inside = map_tables(keys, lambda table, wanted=bin_number: table.filter(pa.array(bins(table) == wanted)))
        cuts.append(split.cut_at(pa.concat_tables(tables_of(inside)).to_pandas(), rank_in_bin))
    return cuts
