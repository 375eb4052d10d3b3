"""The short table that ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.report.tables import NONE, OWN_SHARES, number, percent
from components.report.verdict import change

SHOWN = {"crm": "CRM", "llm": "LLM", "routed": "routed"}


def summary_table(metrics: Mapping[str, Any]) -> str:
    """Return AUC, LogLoss and ACC of CRM, LLM and the policy, the LLM share and the interval, as plain text."""
    test = metrics["test"]
    lines = [f"{'test':<8}{'AUC':>9}{'LogLoss':>9}{'ACC':>9}{'LLM share':>11}"]
    for key, name in SHOWN.items():
        entry = test[key]
        share = percent(entry.get("llm_share", OWN_SHARES.get(key)))
        lines.append(f"{name:<8}{number(entry['auc']):>9}{number(entry['logloss']):>9}{number(entry['accuracy']):>9}{share:>11}")
    interval = test["routed"]["auc_minus_crm"]
    lines.append(f"AUC routed - CRM: {change(interval) if interval['low'] is not None else NONE}")
    if metrics["synthetic"]:
        lines.append("synthetic data: these figures say nothing about real users")
    return "\n".join(lines)
