"""The objective of the policy search, without Ray: a validation score table and a trial's parameters give its figures.

Everything a policy learns is fitted on some users and judged on others (cross-fitting by user), so no trial is judged on
labels that it was fitted on. Its AUC is taken inside each fold: the folds' policies differ a little in scale.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components import metrics
from components.errors import DataError
from components.metrics import Array
from components.routing import calibration
from components.routing.calibration import Calibration, CalibrationName
from components.routing.fit import ArmColumn, Spec, fit_policy
from components.routing.policy import Routes
from components.routing.scored import plain_rows

ARMS: tuple[ArmColumn, ...] = get_args(ArmColumn)


@dataclass(frozen=True)
class Fold:
    """One part of the users to judge on, all other users to fit on."""

    index: NDArray[np.int64]  # the judged rows in the score table
    rest: dict[str, Array]
    judged: dict[str, Array]
    fitted: dict[tuple[ArmColumn, CalibrationName], Calibration]  # on `rest`


@dataclass(frozen=True)
class ScoreData:
    """A validation score table, made ready for many trials: plain arrays, which Ray's workers share without a copy."""

    rows: dict[str, Array]
    folds: tuple[Fold, ...]

    @property
    def fold_of_row(self) -> NDArray[np.int64]:
        number = np.empty(len(self.rows["label"]), np.int64)
        for k, fold in enumerate(self.folds):
            number[fold.index] = k
        return number


@dataclass(frozen=True)
class Score:
    """How a policy did on users it had not seen, fold by fold; a whole is the mean of its folds, weighted by rows."""

    fold_rows: tuple[int, ...]
    fold_auc: tuple[float, ...]
    fold_logloss: tuple[float, ...]
    fold_share: tuple[float, ...]  # of rows answered by the LLM

    def auc(self, without: int | None = None) -> float:
        return self._mean(self.fold_auc, without)

    def logloss(self, without: int | None = None) -> float:
        return self._mean(self.fold_logloss, without)

    def share(self, without: int | None = None) -> float:
        return self._mean(self.fold_share, without)

    def _mean(self, values: Sequence[float], without: int | None) -> float:
        known = [k for k, value in enumerate(values) if k != without and not np.isnan(value)]
        weights = [self.fold_rows[k] for k in known]
        return float(np.average([values[k] for k in known], weights=weights)) if known else float("nan")


def prepare(valid: pd.DataFrame, folds: int, calibrations: Sequence[CalibrationName] = get_args(CalibrationName)) -> ScoreData:
    """Cut the users into folds and fit every calibration of both arms on each fold's other users.

    Raises DataError where columns, users or labels do not suffice.
    """
    rows = plain_rows(valid)
    fold = folds_of(valid["user_id"].to_numpy(), folds)
    return ScoreData(rows, tuple(_fold(rows, fold == number, calibrations) for number in range(folds)))


def folds_of(user_id: Array, folds: int) -> NDArray[np.int64]:
    """Return each row's fold: users, in the order of a hash of their ids, are dealt out in turn.

    The same users fall into the same folds on every machine. Raises DataError where a fold would stay empty.
    """
    codes, users = pd.factorize(user_id)
    if len(users) < folds:
        raise DataError(f"validation: expected at least {folds} users to cross-fit a policy, got {len(users)}")
    fold = np.empty(len(users), np.int64)
    fold[hash_order(users)] = np.arange(len(users)) % folds
    return fold[codes]


def thinned(valid: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Return the rows of whole users, in the order of a hash of their ids, that together do not exceed `rows` (at least one user's)."""
    if len(valid) <= rows:
        return valid
    codes, users = pd.factorize(valid["user_id"])
    order = hash_order(users)
    total = np.cumsum(np.bincount(codes)[order])
    kept = np.zeros(len(users), np.bool_)
    kept[order[: max(1, int(np.searchsorted(total, rows, side="right")))]] = True
    return valid.loc[kept[codes]]


def hash_order(ids: Iterable[Any]) -> NDArray[np.int64]:
    """Return positions that put ids into an order that depends on nothing but the ids."""
    return np.argsort([zlib.crc32(str(value).encode()) for value in ids], kind="stable")


def evaluate(data: ScoreData, spec: Spec) -> Score:
    """Cross-fit the policy that `spec` describes and score it."""
    return score(data, [judge(fold, spec) for fold in data.folds])


def judge(fold: Fold, spec: Spec) -> Routes:
    """Fit a policy on a fold's other users and let it decide the fold's rows."""
    return fit_policy(fold.rest, spec, fold.fitted).decide(fold.judged)


def crm_score(data: ScoreData) -> Score:
    """Score the CRM as it is: the policy of share 0."""
    return score(data, [Routes(np.full(len(fold.index), "crm"), fold.judged["p_crm"]) for fold in data.folds])


def score(data: ScoreData, routes: Sequence[Routes]) -> Score:
    """Score the routes of each fold's judged rows."""
    labels = [fold.judged["label"] for fold in data.folds]
    return Score(
        fold_rows=tuple(len(label) for label in labels),
        fold_auc=tuple(metrics.auc(label, route.p_routed) for label, route in zip(labels, routes, strict=True)),
        fold_logloss=tuple(metrics.logloss(label, route.p_routed) for label, route in zip(labels, routes, strict=True)),
        fold_share=tuple(route.llm_share for route in routes),
    )


def _fold(rows: dict[str, Array], judged: NDArray[np.bool_], calibrations: Sequence[CalibrationName]) -> Fold:
    rest = {name: values[~judged] for name, values in rows.items()}
    fitted: dict[tuple[ArmColumn, CalibrationName], Calibration]
    fitted = {(arm, name): calibration.fit(name, rest[arm], rest["label"]) for arm in ARMS for name in calibrations}
    return Fold(np.flatnonzero(judged), rest, {name: values[judged] for name, values in rows.items()}, fitted)
