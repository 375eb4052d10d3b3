"""Metrics of click probabilities, and the paired bootstrap by user that says what a difference between two of them is worth.

Each metric comes as a function of users' weights, prepared once for its rows: a weight of 1 for everybody gives the plain
value, and a resample costs one pass over the rows. A metric that is not defined (one class only) is nan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]
UserWeighted = Callable[[Array], float]
Metric = Callable[[Array, Array, Array], UserWeighted]

CLIP = 1e-7  # probabilities are kept this far from 0 and 1 before a logarithm
ECE_BINS = 15


def auc(label: Array, p: Array) -> float:
    """Return the area under the ROC curve; tied scores count half."""
    return weighted_auc(label, p, np.zeros(len(label), np.int64))(np.ones(1))


def uauc(label: Array, p: Array, user: Array) -> float:
    """Return the unweighted mean, over users who have both labels, of each one's own AUC (as CoLLM, arXiv 2310.19488)."""
    return _plain(weighted_uauc, label, p, user)


def logloss(label: Array, p: Array) -> float:
    """Return the mean binary cross-entropy in nats, probabilities clipped to [1e-7, 1 - 1e-7]."""
    return float(row_logloss(label, p).mean()) if len(label) else float("nan")


def accuracy(label: Array, p: Array) -> float:
    """Return the share of rows on the right side of p = 0.5; 0.5 itself predicts a click."""
    return weighted_accuracy(label, p, np.zeros(len(label), np.int64))(np.ones(1))


def ece(label: Array, p: Array) -> float:
    """Return the expected calibration error of the click probability.

    Rows fall in 15 bins of equal width, [i/15, (i+1)/15), the last one closed; |mean label - mean p| of each bin, weighted by its rows.
    """
    return weighted_ece(label, p, np.zeros(len(label), np.int64))(np.ones(1))


def summary(label: Array, p: Array, user: Array) -> dict[str, float]:
    """Return every metric of METRICS by its name."""
    return {name: _plain(metric, label, p, user) for name, metric in METRICS.items()}


def row_logloss(label: Array, p: Array) -> NDArray[np.float64]:
    """Return each row's binary cross-entropy in nats."""
    clipped = np.clip(np.asarray(p, np.float64), CLIP, 1 - CLIP)
    return -np.log(np.where(np.asarray(label) == 1, clipped, 1 - clipped))


def weighted_auc(label: Array, p: Array, user: Array) -> UserWeighted:
    """AUC as a function of users' weights: the rows are sorted here, once."""
    label, p = _checked(label, p)
    order = np.argsort(p)
    positive, user_sorted = (label[order] == 1).astype(np.float64), np.asarray(user)[order]
    starts = np.flatnonzero(_changes(p[order]))
    tied = len(starts) < len(p)

    def value(user_weight: Array) -> float:
        weight = np.asarray(user_weight, np.float64)[user_sorted]
        above = weight * positive
        below = weight - above
        if tied:
            above, below = np.add.reduceat(above, starts), np.add.reduceat(below, starts)
        pairs = above.sum() * below.sum()
        return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs > 0 else float("nan")

    return value


def weighted_uauc(label: Array, p: Array, user: Array) -> UserWeighted:
    """UAUC as a function of users' weights: each user's AUC (Mann-Whitney, by ranks among the user's rows) is taken here, once."""
    label, p = _checked(label, p)
    user = np.asarray(user)
    order = np.lexsort((p, user))
    label, p, user = label[order], p[order], user[order]
    rows = np.arange(len(p))
    new_user = _changes(user)
    user_start = np.maximum.accumulate(np.where(new_user, rows, 0))
    tie = np.flatnonzero(new_user | _changes(p))
    tie_rows = np.diff(np.r_[tie, len(p)])
    rank = np.repeat(tie + (tie_rows + 1) / 2, tie_rows) - user_start
    positives = np.bincount(user, label == 1)
    negatives = np.bincount(user, label != 1)
    beaten = np.bincount(user, rank * (label == 1)) - positives * (positives + 1) / 2
    known = np.flatnonzero((positives > 0) & (negatives > 0))
    user_auc = beaten[known] / (positives[known] * negatives[known])
    return lambda user_weight: _mean(user_auc, np.asarray(user_weight)[known])


def weighted_logloss(label: Array, p: Array, user: Array) -> UserWeighted:
    """LogLoss as a function of users' weights."""
    return _row_mean(row_logloss(*_checked(label, p)), user)


def weighted_accuracy(label: Array, p: Array, user: Array) -> UserWeighted:
    """Accuracy as a function of users' weights."""
    label, p = _checked(label, p)
    return _row_mean((p >= 0.5) == (label == 1), user)


def weighted_ece(label: Array, p: Array, user: Array) -> UserWeighted:
    """ECE as a function of users' weights."""
    label, p = _checked(label, p)
    bin_of_row = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    user = np.asarray(user)

    def value(user_weight: Array) -> float:
        weight = np.asarray(user_weight, np.float64)[user]
        gap = np.abs(np.bincount(bin_of_row, weight * (label - p), minlength=ECE_BINS)).sum()
        return float(gap / weight.sum()) if weight.sum() > 0 else float("nan")

    return value


def within(metric: Metric, group: Array) -> Metric:
    """Take a metric inside each group of rows; the groups' values, weighted by their rows, are averaged."""

    def prepare(label: Array, p: Array, user: Array) -> UserWeighted:
        label, p, user = np.asarray(label), np.asarray(p), np.asarray(user)
        masks = [group == value for value in np.unique(group)]
        parts = [metric(label[mask], p[mask], user[mask]) for mask in masks]
        users = [user[mask] for mask in masks]

        def value(user_weight: Array) -> float:
            rows = np.array([user_weight[part].sum() for part in users])
            return _mean(np.array([part(user_weight) for part in parts]), rows)

        return value

    return prepare


METRICS: dict[str, Metric] = {
    "auc": weighted_auc,
    "uauc": weighted_uauc,
    "logloss": weighted_logloss,
    "accuracy": weighted_accuracy,
    "ece": weighted_ece,
}


@dataclass(frozen=True)
class Interval:
    """A difference between two score vectors on the same rows, and where resampled users put it."""

    difference: float  # on the rows as they are
    mean: float  # of the resamples
    low: float  # 2.5 % of the resamples lie below
    high: float  # 2.5 % lie above
    draws: int  # resamples in which the metric was defined

    @property
    def above_zero(self) -> bool:
        return self.low > 0


def bootstrap_by_user(
    label: Array, p: Array, baseline: Array, user: Array, draws: int = 500, seed: int = 0, metric: Metric = weighted_auc
) -> Interval:
    """Resample users with all their rows and return metric(p) - metric(baseline) with its 95 % percentile interval.

    Both vectors see the same resamples. Draws in which the metric is not defined are left out.
    """
    codes, names = pd.factorize(np.asarray(user))
    users = len(names)
    ours, theirs = metric(label, p, codes), metric(label, baseline, codes)
    everyone = np.ones(users)
    random = np.random.default_rng(seed)
    differences = np.empty(draws)
    for draw in range(draws):
        weight = np.bincount(random.integers(users, size=users), minlength=users).astype(np.float64)
        differences[draw] = ours(weight) - theirs(weight)
    known = differences[~np.isnan(differences)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    mean = float(known.mean()) if len(known) else float("nan")
    return Interval(ours(everyone) - theirs(everyone), mean, float(low), float(high), len(known))


def _plain(metric: Metric, label: Array, p: Array, user: Array) -> float:
    codes, names = pd.factorize(np.asarray(user))
    return metric(label, p, codes)(np.ones(len(names)))


def _checked(label: Array, p: Array) -> tuple[Array, NDArray[np.float64]]:
    label, p = np.asarray(label), np.asarray(p, np.float64)
    assert label.shape == p.shape, f"{label.shape} labels for {p.shape} scores"
    assert not np.isnan(p).any(), "a score is nan"
    return label, p


def _changes(values: Array) -> NDArray[np.bool_]:
    return np.r_[True, values[1:] != values[:-1]][: len(values)]


def _row_mean(values: Array, user: Array) -> UserWeighted:
    sums = np.bincount(user, values)
    rows = np.bincount(user)

    def value(user_weight: Array) -> float:
        weight = np.asarray(user_weight, np.float64)[: len(rows)]
        total = weight @ rows
        return float(weight @ sums / total) if total > 0 else float("nan")

    return value


def _mean(values: Array, weight: Array) -> float:
    known = ~np.isnan(values)
    total = weight[known].sum()
    return float(values[known] @ weight[known] / total) if total > 0 else float("nan")
