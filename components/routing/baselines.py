"""What a routed policy is held against: chance, a placebo and hindsight at the same LLM budget, and both models joined everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from components.routing.fit import Spec, fit_policy, gains
from components.routing.policy import Policy, Routes, request_of, threshold_for, worth
from components.routing.router import Rows, column
from components.routing.signals import Floats, logit, sigmoid

DRAWS = 20


def random_routing(rows: Rows, policy: Policy, share: float, draws: int = DRAWS, seed: int = 0) -> Iterator[Routes]:
    """Yield routes that ask the LLM about random rows (or requests), as many as `share` allows, merged as the policy does.

    Metrics are to be averaged over the draws, not the probabilities: their mean would be a better model than any draw.
    """
    unit = _units(rows, policy)
    random = np.random.default_rng(seed)
    for _ in range(draws):
        estimate = random.permutation(unit.max(initial=-1) + 1).astype(np.float64)[unit]
        yield policy.answer(rows, estimate > threshold_for(estimate, share))


def at_share(rows: Rows, policy: Policy, share: float, seed: int = 0) -> Routes:
    """Let a policy ask about exactly `share` of these rows, those of its highest estimates, wherever its threshold lies.

    No label is read. Rows that tie are taken by chance; whole requests may leave less than one request of the share unspent.
    """
    unit, estimate = _units(rows, policy), worth(policy.router, policy.unit, rows)
    units = int(unit.max(initial=-1)) + 1
    of_unit, rank = np.empty(units), np.empty(units)
    of_unit[unit] = estimate
    rank[np.lexsort((np.random.default_rng(seed).permutation(units), of_unit))] = np.arange(units)
    return policy.answer(rows, rank[unit] > threshold_for(rank[unit], share))


def capped(rows: Rows, policy: Policy) -> Routes:
    """Let a policy ask at its own threshold, or at a higher one where `max_llm_share` of these rows would not suffice."""
    estimate = worth(policy.router, policy.unit, rows)
    return replace(policy, threshold=max(policy.threshold, threshold_for(estimate, policy.max_llm_share))).decide(rows)


def average(valid: Rows, rows: Rows) -> Routes:
    """Ask the LLM everywhere and answer with the plain mean of both logits, each after Platt calibration on `valid`."""
    return fit_policy(valid, Spec("entropy", 1.0, "mix", 0.5, "platt", "platt")).decide(rows)


def stacker(valid: Rows, rows: Rows) -> Routes:
    """Ask the LLM everywhere and answer with a logistic regression on both Platt-calibrated logits, all fitted on `valid`.

    Where the LLM did not answer, the calibrated CRM does.
    """
    both = fit_policy(valid, Spec("entropy", 1.0, "mix", 0.5, "platt", "platt"))
    label, learned, answered = column(valid, "label"), _answered(valid), _answered(rows)
    fitted = LogisticRegression(C=1e6).fit(_logits(valid, both, learned), label[learned])
    routes = both.decide(rows)
    routes.p_routed[answered] = sigmoid(_logits(rows, both, answered) @ fitted.coef_[0] + fitted.intercept_[0])
    return routes


def placebo(valid: Rows, rows: Rows, policy: Policy, share: float, seed: int = 0) -> Routes:
    """Let a policy of the same kind, fitted on `valid`, ask an "LLM" that answers the mean click rate to everything, at exactly `share`.

    What this gains over the CRM comes from correcting the CRM where it is too sure, and not from anything an LLM knows.
    """
    rate = float(column(valid, "label").mean())
    spec = Spec(
        router=policy.router.name,
        share=share,
        merge=policy.merge,
        weight=policy.weight,
        crm_calibration=policy.crm_calibration.name,
        llm_calibration="none",
        unit=policy.unit,
    )
    return at_share(_answering(rows, rate), fit_policy(_answering(valid, rate), spec), share, seed)


def oracle(rows: Rows, policy: Policy, share: float) -> Routes:
    """Replace the CRM's answer where, with the label known, the LLM's lowers the loss most: at most `share`, and only where it does.

    Both are calibrated as in the policy. Whole requests, where the policy routes these, go by the mean of their rows.
    """
    hindsight = replace(policy, merge="replace")
    gain = gains(rows, policy.crm_calibration, policy.llm_calibration, "replace", 1.0)
    if policy.unit == "request":
        unit, saved = _units(rows, policy), np.where(np.isnan(gain), 0.0, gain)  # unanswered rows save nothing
        gain = (np.bincount(unit, saved) / np.bincount(unit))[unit]
    helpful = np.where(gain > 0, gain, -math.inf)
    return hindsight.answer(rows, helpful > threshold_for(helpful, share))


def _logits(rows: Rows, policy: Policy, where: NDArray[np.bool_]) -> Floats:
    arms = (("p_crm", policy.crm_calibration), ("p_llm", policy.llm_calibration))
    return np.column_stack([logit(fitted.apply(column(rows, name)[where])) for name, fitted in arms])


def _answered(rows: Rows) -> NDArray[np.bool_]:
    return np.isfinite(column(rows, "p_llm"))


def _units(rows: Rows, policy: Policy) -> NDArray[np.int64]:
    """Number what the policy routes together."""
    return request_of(rows) if policy.unit == "request" else np.arange(len(column(rows, "p_crm")))


def _answering(rows: Rows, p_llm: float) -> Rows:
    columns = {name: column(rows, str(name)) for name in rows}
    return columns | {"p_llm": np.full(len(columns["p_crm"]), p_llm)}
