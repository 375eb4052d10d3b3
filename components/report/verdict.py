"""The run's result in plain words, for the top of the report and the end of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say in a few sentences whether asking the LLM paid on test, and by how much."""
    test = metrics["test"]
    return " ".join(filter(None, (_policy(test), _budget(metrics), _otherwise(metrics), _llm_alone(test))))


def change(interval: Mapping[str, Any]) -> str:
    """Write a difference with its interval."""
    if interval["difference"] is None or interval["low"] is None:
        return "not defined on these rows"
    return f"{interval['difference']:+.4f} (95 % interval {interval['low']:+.4f} to {interval['high']:+.4f})"


def _policy(test: Mapping[str, Any]) -> str:
    routed, interval = test["routed"], test["routed"]["auc_minus_crm"]
    if routed["llm_share"] == 0:
        return f"The policy asks the LLM about no test row: every answer is the CRM's, with an AUC of {_auc(test['crm'])}."
    asked = f"The policy asks the LLM about {routed['llm_share']:.1%} of the test rows and changes the CRM's AUC by {change(interval)}"
    if interval["low"] is None:
        return f"The policy asks the LLM about {routed['llm_share']:.1%} of the test rows; AUC is not defined on them."
    served = _order_served(routed)
    if interval["low"] > 0:
        head = "Asking the LLM raises the AUC here." if served else "Asking the LLM pays here."
        return f"{head} {asked}, from {_auc(test['crm'])} to {_auc(routed)}.{served}"
    if interval["high"] < 0:
        head = "Asking the LLM lowers the AUC here." if served else "Asking the LLM costs quality here."
        return f"{head} {asked}, from {_auc(test['crm'])} to {_auc(routed)}.{served}"
    return f"Asking the LLM makes no difference to the AUC that these test rows can show. {asked}: the interval holds 0.{served}"


def _order_served(routed: Mapping[str, Any]) -> str:
    """Say what becomes of the order inside a user where it is not what becomes of AUC."""
    overall, inside = _direction(routed["auc_minus_crm"]), _direction(routed["uauc_minus_crm"])
    if overall == inside:
        return ""
    said = {None: "can't be told", -1: "gets worse", 0: "shows no such change", 1: "gets better"}[inside]
    return f" The order inside each user, which is what gets served, {said}: the change in UAUC is {change(routed['uauc_minus_crm'])}."


def _direction(interval: Mapping[str, Any]) -> int | None:
    """Return the sign of a difference, 0 where its interval holds 0, None where it has none."""
    return None if interval["low"] is None else (interval["low"] > 0) - (interval["high"] < 0)


def _budget(metrics: Mapping[str, Any]) -> str:
    taken, allowed = metrics["test"]["routed"]["llm_share"], metrics["policy"]["max_llm_share"]
    if taken <= allowed:
        return ""
    capped = metrics["controls"]["capped"]
    return (
        f"The cap of {allowed:.0%} is one of validation, where the threshold was set, and these rows are of another time: "
        f"held to {capped['llm_share']:.1%} of them, the policy changes the AUC by {change(capped['auc_minus_crm'])}."
    )


def _otherwise(metrics: Mapping[str, Any]) -> str:
    random, routed = metrics["test"]["random"], metrics["test"]["routed"]
    if routed["llm_share"] > 0:
        placebo = metrics["controls"]["placebo"]
        return f"As many rows chosen by chance give {_auc(random)}; an LLM that knows nothing, asked about as many, gives {_auc(placebo)}."
    share = f"{random['llm_share']:.0%}"
    asked = metrics["shares"].get("0.2")
    if asked is None:
        return f"Asking about {share} of them by chance would give {_auc(random)}."
    difference = change(asked["routed"]["auc_minus_crm"])
    return f"Validation's best policy for a share of 20% would change it by {difference}; {share} chosen by chance give {_auc(random)}."


def _llm_alone(test: Mapping[str, Any]) -> str:
    return f"The LLM alone reaches {_auc(test['llm'])}, the plain average of both models on every row {_auc(test['average'])}."


def _auc(entry: Mapping[str, Any]) -> str:
    return "an undefined AUC" if entry["auc"] is None else f"{entry['auc']:.4f}"
