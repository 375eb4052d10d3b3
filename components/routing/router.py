"""Routers estimate, for each row, how much asking the LLM is worth. They hold no thresholds: those are the policy's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
import pandas as pd

from components.errors import ArtifactError
from components.routing.calibration import finite
from components.routing.signals import Array, Floats, entropy, logit, margin

Rows = pd.DataFrame | Mapping[str, Array]
RouterName = Literal["entropy", "margin", "gain"]
COLUMNS = ("p_crm", "item_popularity", "user_popularity", "earlier_count")  # all that a router may read
FEATURES = ("entropy", "abs_logit", "log_item_popularity", "new_item", "log_earlier_count", "new_user")
RIDGE = 1.0  # penalty on standardised features, worth one row


class Router(Protocol):
    """Ranks rows by the worth of an LLM answer."""

    name: ClassVar[RouterName]

    def estimate(self, rows: Rows) -> Floats:
        """Return a number per row, larger where the LLM is worth more; its scale is the router's own."""
        ...

    def to_json(self) -> dict[str, Any]: ...


def column(rows: Rows, name: str) -> Array:
    """Return one column of a table or of a mapping of arrays."""
    return np.asarray(rows[name])


@dataclass(frozen=True)
class EntropyRouter:
    """The CRM's doubt in nats, as in CoReLLa (arXiv 2403.16378)."""

    name: ClassVar[RouterName] = "entropy"

    def estimate(self, rows: Rows) -> Floats:
        return entropy(column(rows, "p_crm"))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True)
class MarginRouter:
    """-|p - 0.5|: the same order of rows as entropy, on a scale that is easier to read."""

    name: ClassVar[RouterName] = "margin"

    def estimate(self, rows: Rows) -> Floats:
        return -margin(column(rows, "p_crm"))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True)
class GainRouter:
    """The LogLoss (nats) that the LLM's answer is expected to save, linear in FEATURES.

    Beside the CRM's doubt it sees how well the CRM can know the row (popularity, history), which entropy can't tell
    from clicks that nobody can predict.
    """

    name: ClassVar[RouterName] = "gain"
    intercept: float
    weights: tuple[float, ...]  # one for each of FEATURES

    def estimate(self, rows: Rows) -> Floats:
        # Column by column: a matrix product may round a row differently in batches of different sizes.
        total = np.full(len(column(rows, "p_crm")), self.intercept)
        for weight, values in zip(self.weights, features(rows), strict=True):
            total += weight * values
        return total

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "intercept": self.intercept, "weights": dict(zip(FEATURES, self.weights, strict=True))}


def features(rows: Rows) -> tuple[Floats, ...]:
    """Return the columns named in FEATURES."""
    p = column(rows, "p_crm")
    item, user, earlier = (column(rows, name).astype(np.float64) for name in COLUMNS[1:])
    return entropy(p), np.abs(logit(p)), np.log1p(item), (item == 0).astype(np.float64), np.log1p(earlier), (user == 0).astype(np.float64)


def fit_gain(rows: Rows, gain: Array) -> GainRouter:
    """Fit a GainRouter by ridge regression on each row's gain: CRM loss minus the loss with the LLM's answer, in nats."""
    X = np.column_stack(features(rows))
    mean, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    Z = (X - mean) / scale
    weights = np.linalg.solve(Z.T @ Z + RIDGE * np.eye(Z.shape[1]), Z.T @ (gain - gain.mean())) / scale
    return GainRouter(float(gain.mean() - weights @ mean), tuple(weights.tolist()))


def router_from_json(value: Mapping[str, Any]) -> Router:
    """Rebuild a router; raises ArtifactError for what `to_json` can't have written."""
    try:
        match value["name"]:
            case "entropy":
                return EntropyRouter()
            case "margin":
                return MarginRouter()
            case "gain":
                return GainRouter(finite(value["intercept"]), tuple(finite(value["weights"][name]) for name in FEATURES))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"router: could not read {value!r}: {error!r}") from error
    raise ArtifactError(f"router: expected a name of {get_args(RouterName)}, got {value['name']!r}")
