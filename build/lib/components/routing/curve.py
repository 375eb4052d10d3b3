"""What a policy gives at other thresholds: LLM share and quality on labelled rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from components.metrics import auc, logloss
from components.routing.policy import Policy, threshold_for, worth
from components.routing.router import Rows, column

STEPS = 20


def threshold_curve(policy: Policy, rows: Rows) -> list[dict[str, Any]]:
    """Return the policy's `threshold`, `llm_share`, `auc` and `logloss` at even steps of the share, from 0 to 1, and at its own threshold.

    Reads what policies read, and `label`. Infinite thresholds are written "inf" and "-inf", as in `policy.json`.
    """
    estimate, label = worth(policy.router, policy.unit, rows), column(rows, "label")
    steps = [threshold_for(estimate, step / STEPS) for step in range(STEPS + 1)]
    thresholds = sorted({*steps, policy.threshold}, reverse=True)
    points = []
    for threshold in thresholds:
        routes = replace(policy, threshold=threshold).decide(rows)
        figures = {"llm_share": routes.llm_share, "auc": auc(label, routes.p_routed), "logloss": logloss(label, routes.p_routed)}
        points.append({"threshold": threshold if np.isfinite(threshold) else str(threshold), **figures})
    return points
