"""The test rows of a score table, made ready to measure many answers on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components import metrics
from components.metrics import Array, Metric
from components.routing.policy import Routes, request_of
from components.routing.scored import plain_rows

Figures = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """Rows to measure on, and how often users are resampled."""

    rows: dict[str, Array]  # of `plain_rows`
    request: NDArray[np.int64]  # each row's request: one user in one second
    draws: int
    seed: int

    @classmethod
    def of(cls, frame: pd.DataFrame, draws: int, seed: int) -> Bench:
        """Take the rows of a score table; raises DataError where one is missing or there is no row."""
        rows = plain_rows(frame)
        return cls(rows, request_of(rows), draws, seed)

    @property
    def size(self) -> int:
        return len(self.rows["label"])

    def measure(self, p: Array, where: NDArray[np.bool_] | None = None) -> Figures:
        """Return every metric of the probabilities, on the rows `where`; rows without a probability are left out."""
        kept = np.isfinite(p) if where is None else np.isfinite(p) & where
        return metrics.summary(self.rows["label"][kept], np.asarray(p)[kept], self.rows["user_id"][kept])

    def measure_routes(self, routes: Routes) -> Figures:
        """Return every metric of the routed probabilities and the shares of rows and of requests that the LLM was asked about."""
        return self.measure(routes.p_routed) | {"llm_share": routes.llm_share, "request_share": self.request_share(routes)}

    def measure_mean(self, many: Iterable[Routes]) -> Figures:
        """Return the mean of `measure_routes` over several routes."""
        measured = pd.DataFrame([self.measure_routes(routes) for routes in many])
        return {str(name): float(values.mean(skipna=False)) for name, values in measured.items()}

    def request_share(self, routes: Routes) -> float:
        """Return the share of requests in which the LLM was asked about at least one row."""
        touched = np.bincount(self.request, routes.arm == "llm") > 0
        return float(touched.mean())

    def against_crm(self, p: Array, metric: Metric = metrics.weighted_auc) -> dict[str, float | int]:
        """Return a metric of p (AUC) minus that of the CRM as it is, with the 95 % interval of the paired bootstrap by user."""
        interval = metrics.bootstrap_by_user(self.rows["label"], p, self.rows["p_crm"], self.rows["user_id"], self.draws, self.seed, metric)
        return {"difference": interval.difference, "low": interval.low, "high": interval.high, "draws": interval.draws}

    def both_against_crm(self, p: Array) -> dict[str, dict[str, float | int]]:
        """Return the differences of AUC and of UAUC: the order of all rows, and that inside each user, which is what gets served."""
        return {"auc_minus_crm": self.against_crm(p), "uauc_minus_crm": self.against_crm(p, metrics.weighted_uauc)}


def without_nan(value: Any) -> Any:
    """Turn what is not a finite number into None, all the way down: JSON has no nan."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, np.generic):
        return without_nan(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
