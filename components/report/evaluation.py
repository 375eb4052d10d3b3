"""A run's figures: from the score table and the finished policy search to what `metrics.json` holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from components.bounds import require_at_least
from components.report.bench import Bench, without_nan
from components.report.segments import segments
from components.report.shares import Contest, at_shares, curve, reliability
from components.report.verdict import verdict
from components.routing.policy import Policy, Routes
from components.routing.scored import plain_rows

FALLBACK_SHARE = 0.2  # what random routing, the oracle and the placebo get where the policy asks nothing


@dataclass(frozen=True)
class Config:
    """How a run is judged on test."""

    bootstrap_draws: int = 500
    """Resamples of users for each interval of a difference in AUC."""
    random_draws: int = 20
    """Draws that random routing is averaged over."""
    seed: int = 0
    """Seed of the resamples and of random routing."""

    def __post_init__(self) -> None:
        require_at_least(1, {"evaluate.bootstrap_draws": self.bootstrap_draws, "evaluate.random_draws": self.random_draws})


@dataclass(frozen=True)
class Search:
    """What the finished policy search says."""

    policy: Policy
    policies: Mapping[float, Policy]  # by share: validation's best there, whatever `policy` asks for; at least one
    pareto: pd.DataFrame  # validation's front of AUC against LLM share, as tune writes it
    trials: int
    sentence: str
    gain: Mapping[str, Any]  # of AUC over the CRM alone, on validation


@dataclass(frozen=True)
class RunFacts:
    """What a report says of a run beside its scores."""

    recipe: str
    synthetic: bool
    rows: Mapping[str, int]  # by split
    label_rate: Mapping[str, float]  # by split
    quarantine: Mapping[str, int]  # bad rows by table and reason
    stages: Mapping[str, Mapping[str, Any]]  # name -> {"seconds", "rate", "unit"}
    best_auc: float | None = None  # of a generator's true click probabilities


@dataclass(frozen=True)
class Evaluation:
    """A run's figures and what its policy did with each test row."""

    metrics: dict[str, Any]  # plain JSON values; a figure that is not defined is None
    routes: pd.DataFrame  # user_id, item_id, timestamp_s, arm ("crm" | "llm"), p_routed; in the order of the test rows


def evaluate(valid: pd.DataFrame, test: pd.DataFrame, search: Search, facts: RunFacts, config: Config) -> Evaluation:
    """Judge the policy, both arms and the baselines on the test part of a score table; everything is fitted on `valid`."""
    contest = Contest.of(Bench.of(test, config.bootstrap_draws, config.seed), plain_rows(valid), config.random_draws)
    routes = search.policy.decide(contest.bench.rows)
    reference = search.policies[_nearest(search.policies)] if search.policy.never_asks else search.policy
    share = routes.llm_share or FALLBACK_SHARE
    figures = _headline(contest, routes, reference, share)
    shares = at_shares(contest, search.policies)
    found = {
        "recipe": facts.recipe,
        "synthetic": facts.synthetic,
        "verdict": "",
        "rows": dict(facts.rows),
        "label_rate": dict(facts.label_rate),
        "quarantine": dict(facts.quarantine),
        "llm_answered": float(np.isfinite(contest.bench.rows["p_llm"]).mean()),
        "best_auc": facts.best_auc,
        "policy": {
            "reads": search.policy.reads(),
            "unit": search.policy.unit,
            "asks": not search.policy.never_asks,
            "max_llm_share": search.policy.max_llm_share,
        },
        "search": {"sentence": search.sentence, "gain": dict(search.gain), "trials": search.trials},
        "test": figures,
        "controls": _controls(contest, reference, share),
        "shares": shares,
        "curve": curve(contest, search.pareto, shares, figures),
        "segments": segments(contest.bench, routes),
        "reliability": reliability(contest.bench, reference),
        "stages": {name: dict(entry) for name, entry in facts.stages.items()},
    }
    plain = without_nan(found)
    return Evaluation(plain | {"verdict": verdict(plain)}, routes_table(test, routes))


def _nearest(shares: Iterable[float]) -> float:
    return min(shares, key=lambda share: abs(share - FALLBACK_SHARE))


def routes_table(test: pd.DataFrame, routes: Routes) -> pd.DataFrame:
    """Return what the policy did with each test row."""
    keys: Sequence[str] = ("user_id", "item_id", "timestamp_s")
    return pd.DataFrame({**{name: test[name].to_numpy() for name in keys}, "arm": routes.arm, "p_routed": routes.p_routed})


def _headline(contest: Contest, routes: Routes, reference: Policy, share: float) -> dict[str, Any]:
    """Measure arms, policy and baselines; random routing and the oracle answer as `reference` does, at `share`."""
    bench = contest.bench
    return {
        "crm": bench.measure(bench.rows["p_crm"]),
        "llm": bench.measure(bench.rows["p_llm"]),
        "routed": bench.measure_routes(routes) | bench.both_against_crm(routes.p_routed),
        "random": bench.measure_mean(contest.random(reference, share)),
        "average": bench.measure_routes(contest.average()),
        "oracle": bench.measure_routes(contest.oracle(reference, share)),
    }


def _controls(contest: Contest, reference: Policy, share: float) -> dict[str, Any]:
    """Measure what else a policy is held against; the placebo asks about as many rows, `share`."""
    bench, capped = contest.bench, contest.capped(reference)
    return {
        "capped": bench.measure_routes(capped) | bench.both_against_crm(capped.p_routed),
        "placebo": bench.measure_routes(contest.placebo(reference, share)),
        "stacker": bench.measure_routes(contest.stacker()),
    }
