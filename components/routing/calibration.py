"""Calibration: monotone maps that make a model's probabilities agree with the clicks seen on validation.

All keep the order of scores. Isotonic's flat pieces would not: they rise too, by less than anybody reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from components.errors import ArtifactError, DataError
from components.routing.signals import Array, Floats, logit, sigmoid

CalibrationName = Literal["none", "temperature", "platt", "isotonic"]
MIN_SLOPE = 0.01  # a map must rise: a model whose scores point the wrong way is made almost constant, not turned round
ISOTONIC_TILT = 1e-6  # share of the model's own probability in the answer: equal answers to what it tells apart cost up to .006 of AUC
ISOTONIC_BOUNDS = (0.001, 0.999)  # a step of clicks alone is no proof of certainty


class Calibration(Protocol):
    """A fitted map from probabilities to probabilities."""

    name: ClassVar[CalibrationName]

    def apply(self, p: Array) -> Floats:
        """Map probabilities; larger never becomes smaller."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Identity:
    """No calibration."""

    name: ClassVar[CalibrationName] = "none"

    def apply(self, p: Array) -> Floats:
        return np.asarray(p, np.float64)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True)
class Temperature:
    """sigmoid(logit(p) / temperature) (Guo et al., arXiv 1706.04599)."""

    name: ClassVar[CalibrationName] = "temperature"
    temperature: float

    def apply(self, p: Array) -> Floats:
        return sigmoid(logit(p) / self.temperature)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "temperature": self.temperature}


@dataclass(frozen=True)
class Platt:
    """sigmoid(slope * logit(p) + offset)."""

    name: ClassVar[CalibrationName] = "platt"
    slope: float
    offset: float

    def apply(self, p: Array) -> Floats:
        return sigmoid(self.slope * logit(p) + self.offset)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "slope": self.slope, "offset": self.offset}


@dataclass(frozen=True)
class Isotonic:
    """A rising line through knots, nearly flat between those of one value and outside them."""

    name: ClassVar[CalibrationName] = "isotonic"
    knots: tuple[float, ...]
    values: tuple[float, ...]

    def apply(self, p: Array) -> Floats:
        p = np.asarray(p, np.float64)
        return (1.0 - ISOTONIC_TILT) * np.interp(p, self.knots, self.values) + ISOTONIC_TILT * p

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "knots": list(self.knots), "values": list(self.values)}


def fit(name: CalibrationName, p: Array, label: Array) -> Calibration:
    """Fit a calibration on probabilities and labels by likelihood (isotonic: least squares).

    Rows whose probability is nan are left out. Raises DataError unless both labels remain.
    """
    if name == "none":
        return Identity()
    known = np.isfinite(p)
    p, label = np.asarray(p, np.float64)[known], np.asarray(label)[known]
    if len(np.unique(label)) < 2:
        raise DataError(f"{name} calibration: expected rows with a probability of both labels, got {len(label)} rows of one")
    if name == "isotonic":
        low, high = ISOTONIC_BOUNDS
        fitted = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(p, label)
        return Isotonic(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))
    slope, offset = _logistic(logit(p), label, with_offset=name == "platt")
    return Platt(slope, offset) if name == "platt" else Temperature(1 / slope)


def from_json(value: Mapping[str, Any]) -> Calibration:
    """Rebuild a calibration; raises ArtifactError for what `to_json` can't have written."""
    try:
        match value["name"]:
            case "none":
                return Identity()
            case "temperature":
                return Temperature(_positive(value["temperature"]))
            case "platt":
                return Platt(_positive(value["slope"]), finite(value["offset"]))
            case "isotonic":
                return _isotonic(value["knots"], value["values"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"calibration: could not read {value!r}: {error!r}") from error
    raise ArtifactError(f"calibration: expected a name of {get_args(CalibrationName)}, got {value['name']!r}")


def finite(value: Any) -> float:
    """Return a number as it was written; raises ValueError for nan and infinities, which JSON's readers let through."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value!r}")
    return number


def _positive(value: Any) -> float:
    number = finite(value)
    if number <= 0:
        raise ValueError(f"expected a number above 0, got {value!r}")
    return number


def _isotonic(knots: Any, values: Any) -> Isotonic:
    fitted = Isotonic(tuple(map(finite, knots)), tuple(map(finite, values)))
    if not fitted.knots or len(fitted.knots) != len(fitted.values):
        raise ValueError("expected a value for each knot and at least one")
    if list(fitted.knots) != sorted(fitted.knots) or list(fitted.values) != sorted(fitted.values):
        raise ValueError("expected knots and values that rise")
    if fitted.values[0] < 0 or fitted.values[-1] > 1:
        raise ValueError("expected values in [0, 1]")
    return fitted


def _logistic(x: Array, label: Array, with_offset: bool) -> tuple[float, float]:
    fitted = LogisticRegression(C=1e6, fit_intercept=with_offset, tol=1e-6).fit(x[:, None], label)
    slope, offset = float(fitted.coef_[0, 0]), float(np.atleast_1d(fitted.intercept_)[0])
    if slope >= MIN_SLOPE:
        return slope, offset
    return MIN_SLOPE, float(logit(label.mean())) if with_offset else 0.0
