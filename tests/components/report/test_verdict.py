from __future__ import annotations

from typing import Any

import pytest

from components.report.verdict import verdict

UP, DOWN, FLAT = (0.001, 0.003), (-0.003, -0.001), (-0.001, 0.001)
INSIDE = "The order inside each user, which is what gets served, "


def interval(ends: tuple[float, float] | None) -> dict[str, Any]:
    if ends is None:
        return {"difference": None, "low": None, "high": None, "draws": 0}
    return {"difference": sum(ends) / 2, "low": ends[0], "high": ends[1], "draws": 500}


def said(auc: tuple[float, float], uauc: tuple[float, float] | None) -> str:
    entry = {"auc": 0.7, "llm_share": 0.2}
    routed = entry | {"auc_minus_crm": interval(auc), "uauc_minus_crm": interval(uauc)}
    test = {"crm": entry, "llm": entry, "routed": routed, "random": entry, "average": entry}
    return verdict({"test": test, "policy": {"max_llm_share": 0.3}, "controls": {"placebo": entry}, "shares": {}})


@pytest.mark.parametrize(
    ("change", "words"),
    [(UP, "Asking the LLM pays here."), (DOWN, "Asking the LLM costs quality here."), (FLAT, "Asking the LLM makes no difference")],
)
def test_where_auc_and_uauc_agree_one_judgement_is_enough(change: tuple[float, float], words: str) -> None:
    assert said(change, change).startswith(words)
    assert INSIDE not in said(change, change)


@pytest.mark.parametrize(
    ("auc", "uauc", "head", "clause"),
    [
        (UP, DOWN, "Asking the LLM raises the AUC here.", "gets worse: the change in UAUC is -0.0020 (95 % interval -0.0030 to -0.0010)."),
        (UP, FLAT, "Asking the LLM raises the AUC here.", "shows no such change: the change in UAUC is +0.0000"),
        (DOWN, FLAT, "Asking the LLM lowers the AUC here.", "shows no such change"),
        (FLAT, UP, "Asking the LLM makes no difference to the AUC", "gets better: the change in UAUC is +0.0020"),
        (UP, None, "Asking the LLM raises the AUC here.", "can't be told: the change in UAUC is not defined on these rows."),
    ],
)
def test_where_the_order_inside_a_user_does_not_follow_the_auc_that_is_said(auc: Any, uauc: Any, head: str, clause: str) -> None:
    assert said(auc, uauc).startswith(head)
    assert INSIDE + clause in said(auc, uauc)
