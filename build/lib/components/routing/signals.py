"""What a click probability says of itself: how sure it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.metrics import CLIP

Array = NDArray[Any]
Floats = NDArray[np.float64]


def entropy(p: Array) -> Floats:
    """Return -p ln p - (1 - p) ln(1 - p) in nats, from 0 (sure) to ln 2 (p = 0.5); CoReLLa's signal (arXiv 2403.16378)."""
    p = np.asarray(p, np.float64)
    inside = np.clip(p, CLIP, 1 - CLIP)
    value = -inside * np.log(inside) - (1 - inside) * np.log1p(-inside)
    return np.where((p <= 0) | (p >= 1), 0.0, value)


def margin(p: Array) -> Floats:
    """Return |p - 0.5|, from 0 (unsure) to 0.5; it orders rows exactly as entropy does, backwards."""
    return np.abs(np.asarray(p, np.float64) - 0.5)


def logit(p: Array) -> Floats:
    """Return ln(p / (1 - p)), p clipped to [1e-7, 1 - 1e-7]."""
    inside = np.clip(np.asarray(p, np.float64), CLIP, 1 - CLIP)
    return np.log(inside) - np.log1p(-inside)


def sigmoid(x: Array) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))
