"""The global time split of samples whose times were counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ray import ObjectRef

from components.errors import DataError
from components.features import split
from components.features.interactions import keys_inside
from pipelines.tasks import results


class Asked(Protocol):
    """What the configuration says of samples and of the split."""

    @property
    def min_history(self) -> int: ...
    @property
    def hide_same_second(self) -> bool: ...
    @property
    def train_fraction(self) -> float: ...
    @property
    def valid_fraction(self) -> float: ...


def find_cuts(settled: Sequence[ObjectRef], by_time: NDArray[np.int64], times_s: tuple[int, int], asked: Asked) -> tuple[split.Cut, ...]:
    """Find where validation and test begin in the order (time, user, item), without sorting: only the bins of the cuts are looked at.

    `settled` are the buckets of each partition, `by_time` the samples in each bin. Raises DataError where a split stays empty.
    """
    rows = int(by_time.sum())
    sizes = split.split_sizes(rows, asked.train_fraction, asked.valid_fraction)
    if min(sizes) < 1:
        raise DataError(f"expected samples for train, valid and test, got {rows} with enough earlier interactions (--prepare.min-history)")
    found = [split.bin_of_rank(by_time, rank) for rank in (sizes[0], sizes[0] + sizes[1])]
    wanted = ([number for number, _ in found], times_s, asked.min_history, asked.hide_same_second)
    keys = pd.concat(results(keys_inside, ((buckets, *wanted) for buckets in settled)), ignore_index=True)
    bins = split.time_bins(*times_s, keys["timestamp_s"].to_numpy())
    return tuple(split.cut_at(keys.loc[bins == number], rank) for number, rank in found)
