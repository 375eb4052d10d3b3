"""Fitting a policy: from a score table with labels and a specification to calibrations, router and threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.errors import ConfigError, DataError
from components.metrics import row_logloss
from components.routing import calibration
from components.routing.calibration import Calibration, CalibrationName
from components.routing.policy import Merge, Policy, Unit, merged, threshold_for, worth
from components.routing.router import COLUMNS, EntropyRouter, MarginRouter, Router, RouterName, Rows, column, fit_gain
from components.routing.signals import Floats

ArmColumn = Literal["p_crm", "p_llm"]
Fitted = Mapping[tuple[ArmColumn, CalibrationName], Calibration]


@dataclass(frozen=True)
class Spec:
    """What a policy is to be, before it has seen any score."""

    router: RouterName
    share: float  # at most this share of the rows is asked
    merge: Merge
    weight: float  # of the LLM's logit in merge "mix"
    crm_calibration: CalibrationName
    llm_calibration: CalibrationName
    unit: Unit = "candidate"

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.weight <= 1):
            raise ConfigError(f"routing: expected share and weight in [0, 1], got {self.share} and {self.weight}")


def fit_policy(rows: Rows, spec: Spec, fitted: Fitted | None = None, max_llm_share: float | None = None) -> Policy:
    """Fit a policy on scored rows with labels; raises DataError where a calibration lacks a label.

    `fitted` holds calibrations already fitted on these rows. `max_llm_share` is the budget that the policy states, by
    default the spec's share; the threshold keeps to the spec's share.
    """
    crm = _calibration(rows, "p_crm", spec.crm_calibration, fitted)
    llm = _calibration(rows, "p_llm", spec.llm_calibration, fitted)
    router = _router(rows, spec, crm, llm)
    estimate = worth(router, spec.unit, rows)
    threshold = threshold_for(estimate, spec.share)
    return Policy(
        router=router,
        threshold=threshold,
        merge=spec.merge,
        weight=spec.weight,
        crm_calibration=crm,
        llm_calibration=llm,
        unit=spec.unit,
        max_llm_share=spec.share if max_llm_share is None else max_llm_share,
        expected_share=float((estimate > threshold).mean()),
    )


def gains(rows: Rows, crm: Calibration, llm: Calibration, merge: Merge, weight: float) -> Floats:
    """Return each row's LogLoss (nats) with the CRM's answer minus that with the merged one; nan where the LLM did not answer."""
    label, p_llm = column(rows, "label"), column(rows, "p_llm")
    known = np.isfinite(p_llm)
    p_crm = crm.apply(column(rows, "p_crm"))
    gain = np.full(len(label), np.nan)
    answered = merged(p_crm[known], llm.apply(p_llm[known]), merge, weight)
    gain[known] = row_logloss(label[known], p_crm[known]) - row_logloss(label[known], answered)
    return gain


def _calibration(rows: Rows, arm: ArmColumn, name: CalibrationName, fitted: Fitted | None) -> Calibration:
    if fitted is not None and (arm, name) in fitted:
        return fitted[arm, name]
    return calibration.fit(name, column(rows, arm), column(rows, "label"))


def _router(rows: Rows, spec: Spec, crm: Calibration, llm: Calibration) -> Router:
    match spec.router:
        case "entropy":
            return EntropyRouter()
        case "margin":
            return MarginRouter()
        case "gain":
            gain = gains(rows, crm, llm, spec.merge, spec.weight)
            known = np.isfinite(gain)
            if not known.any():
                raise DataError(f"gain router: expected rows that the LLM answered, got none of {len(gain)}")
            return fit_gain({name: column(rows, name)[known] for name in COLUMNS}, gain[known])
