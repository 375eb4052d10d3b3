"""Scores as an answer shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.router import Scored


def results(scored: Scored, items: Sequence[str], order: Sequence[int]) -> list[dict[str, Any]]:
    """Return what is said of each candidate: `items` [C] name them, `order` lists the positions to show."""
    # Whatever was overlooked before: a number that is none never leaves.
    if not np.isfinite(scored.score + scored.confidence).all():
        raise ArithmeticError("a score is not finite")
    columns = (scored.score, scored.arm, scored.p_crm, scored.p_llm, scored.confidence)
    values = list(zip(items, *(column.tolist() for column in columns), scored.reason, strict=True))
    return [_result(*values[at]) for at in order]


def _result(item: str, score: float, arm: str, p_crm: float, p_llm: float, confidence: float, reason: str) -> dict[str, Any]:
    return {
        "id": item,
        "score": score,
        "arm": arm,
        "p_crm": p_crm if p_crm == p_crm else None,
        "p_llm": p_llm if p_llm == p_llm else None,
        "confidence": confidence,
        "reason": reason,
    }
