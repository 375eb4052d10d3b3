"""What the training samples show, block by block: how often users and items occur, and the values of context. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from components.types import FieldKind, Schema


@dataclass(frozen=True)
class Moments:
    """Of numbers, without the missing ones."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean

    @staticmethod
    def of(values: NDArray[np.float64]) -> Moments:
        known = values[~np.isnan(values)]
        return Moments(len(known), float(known.mean()), float(np.square(known - known.mean()).sum())) if len(known) else Moments()

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        return Moments(count, mean, self.squares + other.squares + apart**2 * self.count * other.count / count)

    @property
    def deviation(self) -> float:
        return float(np.sqrt(self.squares / max(self.count, 1)))


@dataclass(frozen=True)
class Counted:
    """Some training samples: each user and each item once."""

    user_rows: NDArray[np.int32]
    user_counts: NDArray[np.int64]
    item_rows: NDArray[np.int32]
    item_counts: NDArray[np.int64]
    item_sums: NDArray[np.float64]  # of ratings
    numbers: Mapping[str, Moments]  # of numeric context fields
    values: Mapping[str, list[str]]  # the distinct values of all other context fields


def count(samples: pa.Table, schema: Schema) -> Counted:
    """Count a block of samples."""
    user_rows, user_counts = np.unique(samples["user_row"].to_numpy(), return_counts=True)
    item_rows, place = np.unique(samples["item_row"].to_numpy(), return_inverse=True)
    sums = np.bincount(place, weights=samples["rating"].to_numpy()).astype(np.float64)
    numbers: dict[str, Moments] = {}
    values: dict[str, list[str]] = {}
    for field in schema.context_fields:
        column = samples[field.name].to_pandas()
        if field.kind is FieldKind.NUMERIC:
            numbers[field.name] = Moments.of(column.to_numpy(np.float64))
        else:
            values[field.name] = column.explode().dropna().unique().tolist()
    return Counted(user_rows, user_counts, item_rows, np.bincount(place), sums, numbers, values)


class Totals:
    """Adds up what was counted of all blocks."""

    def __init__(self, users: int, items: int, schema: Schema) -> None:
        """`users` and `items` are the lengths of these tables."""
        self.user_counts, self.item_counts, self.item_sums = np.zeros(users, np.int64), np.zeros(items, np.int64), np.zeros(items)
        self._numbers = {field.name: Moments() for field in schema.context_fields if field.kind is FieldKind.NUMERIC}
        self._values: dict[str, set[str]] = {field.name: set() for field in schema.context_fields if field.name not in self._numbers}

    def add(self, blocks: Iterable[Counted]) -> None:
        """Add blocks of samples."""
        for block in blocks:
            self.user_counts[block.user_rows] += block.user_counts
            self.item_counts[block.item_rows] += block.item_counts
            self.item_sums[block.item_rows] += block.item_sums
            for name, moments in block.numbers.items():
                self._numbers[name] += moments
            for name, values in block.values.items():
                self._values[name].update(values)

    @property
    def context(self) -> dict[str, pd.Series]:
        """What the context fields' vocabularies and scales are fitted on: distinct values, and mean minus and plus deviation."""
        scales = {
            name: pd.Series([moments.mean - moments.deviation, moments.mean + moments.deviation]) for name, moments in self._numbers.items()
        }
        return {**scales, **{name: pd.Series(sorted(values), dtype="str") for name, values in self._values.items()}}
