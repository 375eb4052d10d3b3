"""Vocabularies: from the values seen in training to rows of one fused embedding table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Vocabulary:
    """The values of one field. Row `first` of the embedding table stands for an unknown value, the next ones for `values`."""

    name: str
    first: int
    values: pd.Index

    @property
    def size(self) -> int:
        """Embedding rows that the field owns, the unknown one included."""
        return len(self.values) + 1

    def encode(self, values: pd.Series | pd.Index | NDArray) -> NDArray[np.int64]:
        """Return the embedding row of each value; a value not seen in training gets the unknown row."""
        return self.first + 1 + self.values.get_indexer(pd.Index(values).astype(str))

    @staticmethod
    def fit(name: str, first: int, train_values: pd.Series) -> Vocabulary:
        """Collect the distinct values of the training rows, in sorted order; missing ones stay unknown."""
        return Vocabulary(name, first, pd.Index(sorted(train_values.dropna().astype(str).unique())))
