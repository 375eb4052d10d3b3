"""Every router at the same LLM budgets, whatever the policy chose: the fair comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pandas as pd

from components.metrics import Array
from components.report.bench import Bench, Figures
from components.routing import baselines, calibration
from components.routing.calibration import Calibration, CalibrationName
from components.routing.fit import ArmColumn, Spec, fit_policy
from components.routing.policy import Policy, Routes
from components.routing.router import RouterName

Fitted = Mapping[tuple[ArmColumn, CalibrationName], Calibration]
Entries = Mapping[str, Mapping[str, Any]]
SPEC_COLUMNS = ("router", "merge", "weight", "crm_calibration", "llm_calibration", "unit")
ORDER_AND_LOSS = ("auc", "uauc", "logloss")
RELIABILITY_BINS = 15


@dataclass(frozen=True)
class Contest:
    """Where routers fitted on validation meet: the test rows."""

    bench: Bench
    valid: Mapping[str, Array]
    fitted: Fitted  # every calibration of both arms, on validation
    random_draws: int

    @classmethod
    def of(cls, bench: Bench, valid: Mapping[str, Array], random_draws: int) -> Contest:
        """Fit the calibrations once; raises DataError unless validation has both labels."""
        arms: tuple[ArmColumn, ...] = get_args(ArmColumn)
        names: tuple[CalibrationName, ...] = get_args(CalibrationName)
        fitted: dict[tuple[ArmColumn, CalibrationName], Calibration] = {
            (arm, name): calibration.fit(name, valid[arm], valid["label"]) for arm in arms for name in names
        }
        return cls(bench, valid, fitted, random_draws)

    def fit(self, spec: Spec) -> Policy:
        """Fit a policy on validation."""
        return fit_policy(self.valid, spec, self.fitted)

    def at_share(self, policy: Policy, share: float) -> Routes:
        """Let a policy ask about exactly this share of the test rows."""
        return baselines.at_share(self.bench.rows, policy, share, self.bench.seed)

    def capped(self, policy: Policy) -> Routes:
        """Let a policy ask as it does, but about no more of the test rows than its budget."""
        return baselines.capped(self.bench.rows, policy)

    def random(self, policy: Policy, share: float) -> list[Routes]:
        """Ask about random test rows, as many as `share` allows, and answer as `policy` does."""
        return list(baselines.random_routing(self.bench.rows, policy, share, self.random_draws, self.bench.seed))

    def oracle(self, policy: Policy, share: float) -> Routes:
        return baselines.oracle(self.bench.rows, policy, share)

    def placebo(self, policy: Policy, share: float) -> Routes:
        """Ask as a policy of this kind does, about exactly this share, but an "LLM" that knows nothing."""
        return baselines.placebo(self.valid, self.bench.rows, policy, share, self.bench.seed)

    def average(self) -> Routes:
        return baselines.average(self.valid, self.bench.rows)

    def stacker(self) -> Routes:
        return baselines.stacker(self.valid, self.bench.rows)


def at_shares(contest: Contest, policies: Mapping[float, Policy]) -> dict[str, dict[str, Any]]:
    """Return what every router gives at each share of the test rows; `policies` are validation's best there."""
    return {str(float(share)): _at_share(contest, share, policy) for share, policy in sorted(policies.items())}


def _at_share(contest: Contest, share: float, best: Policy) -> dict[str, Any]:
    """Compare routers that answer alike (as `best` does), ask equally often and differ in what they ask about.

    A threshold of validation spends another share on later rows, and each router's another one. So each asks about its
    highest estimates among the test rows, which needs no label; `share_at_threshold` is what validation's threshold would
    have spent. The interval of random routing is that of its first draw: one run of chance, as anybody who routes so would get.
    """
    bench, names = contest.bench, get_args(RouterName)
    spec = Spec("entropy", share, best.merge, best.weight, best.crm_calibration.name, best.llm_calibration.name, best.unit)
    policies = {"routed": best, **{name: contest.fit(replace(spec, router=name)) for name in names}}
    routes = {name: contest.at_share(policy, share) for name, policy in policies.items()}
    found = {name: _short(bench.measure_routes(taken)) for name, taken in routes.items()}
    for name, policy in policies.items():
        found[name]["share_at_threshold"] = policy.decide(bench.rows).llm_share
    found["routed"] |= {"router": best.router.name, "auc_minus_crm": bench.against_crm(routes["routed"].p_routed)}
    chance = contest.random(best, share)
    found["random"] = _short(bench.measure_mean(chance)) | {"auc_minus_crm": bench.against_crm(chance[0].p_routed)}
    found["oracle"] = _short(bench.measure_routes(contest.oracle(best, share)))
    return found


def curve(contest: Contest, pareto: pd.DataFrame, at_share: Entries, test: Entries) -> dict[str, list[Figures]]:
    """Return the points of AUC against LLM share by router, each but the average's beginning with the CRM alone.

    `routed` are the policies of validation's Pareto front (a table as tune writes it), fitted on validation and applied
    to test, good there or not, at the share that their thresholds spend on test; beyond the front's last share, validation's
    best at exactly each share.
    """
    crm = _short({**test["crm"], "llm_share": 0.0})
    front = specs_of(pareto)
    last = max((spec.share for spec in front), default=0.0)
    points = {
        "routed": [_short(contest.bench.measure_routes(contest.fit(spec).decide(contest.bench.rows))) for spec in front]
        + [_short(entry["routed"]) for share, entry in at_share.items() if float(share) > last],
        "random": [_short(entry["random"]) for entry in at_share.values()],
        "oracle": [_short(entry["oracle"]) for entry in at_share.values()],
    }
    ordered = {name: sorted([crm, *values], key=lambda point: point["llm_share"]) for name, values in points.items()}
    return ordered | {"average": [_short(test["average"])]}


def specs_of(table: pd.DataFrame) -> list[Spec]:
    """Return the specification of each row of a table of trials that has one."""
    return [spec for row in table.to_dict("records") if (spec := spec_of(row)) is not None]


def spec_of(row: Mapping[Any, Any]) -> Spec | None:
    """Return the specification that a row of trials was made from; the CRM alone (router "never") has none."""
    return None if row["router"] == "never" else Spec(share=row["target_share"], **{name: row[name] for name in SPEC_COLUMNS})


def reliability(bench: Bench, policy: Policy) -> dict[str, Any]:
    """Return for both arms, before and after the policy's calibration, each bin's mean probability and label rate.

    Bins hold equally many rows.
    """
    found: dict[str, Any] = {}
    for arm, fitted in (("crm", policy.crm_calibration), ("llm", policy.llm_calibration)):
        p = bench.rows[f"p_{arm}"]
        known = np.isfinite(p)
        label = bench.rows["label"][known]
        found[arm] = {"calibration": fitted.name, "before": _bins(label, p[known]), "after": _bins(label, fitted.apply(p[known]))}
    return found


def _bins(label: Array, p: Array) -> list[dict[str, float | int]]:
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), RELIABILITY_BINS) if len(part)]
    return [{"p": float(p[part].mean()), "label_rate": float(label[part].mean()), "rows": len(part)} for part in parts]


def _short(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {name: measured[name] for name in (*ORDER_AND_LOSS, "llm_share")}
