"""Draws that depend on a row's key alone: the same rows in every run, whatever their order or the number of workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def uniform_hash(seed: int, *keys: NDArray) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row, from its integer keys and the seed (splitmix64 mixing)."""
    state = np.full(len(keys[0]), seed, np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = _mix(state * np.uint64(0x9E3779B97F4A7C15) + key.astype(np.uint64) + np.uint64(1))
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
