"""Numeric columns: what counts as a number, and how it is standardised on the training rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

OUTLIER = 100.0  # deviations from the mean; whatever is further out counts as this far, so that every feature is finite


def numbers(column: pd.Series) -> pd.Series:
    """Return a column as float64; NaN where there is no finite number."""
    values = pd.Series(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    return values.where(np.isfinite(values))


def fit_scale(column: pd.Series) -> tuple[float, float]:
    """Return mean and standard deviation of the known numbers; (mean, 1) where all are the same."""
    known = numbers(column).dropna().to_numpy()
    if not len(known):
        return 0.0, 1.0
    mean, deviation = float(known.mean()), float(known.std())
    # Rounding leaves equal numbers a deviation that is not quite 0.
    return mean, deviation if deviation > 1e-12 * abs(mean) else 1.0


def standardise(column: pd.Series, scale: tuple[float, float]) -> NDArray[np.float32]:
    """Return (number - mean) / deviation; a missing number becomes the mean, 0."""
    mean, deviation = scale
    values = (numbers(column).to_numpy() - mean) / deviation
    return np.nan_to_num(np.clip(values, -OUTLIER, OUTLIER), nan=0.0).astype(np.float32)
