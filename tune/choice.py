"""The choice among scored policies, without Ray: which is best, what it gains over the CRM, and how to say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from components.metrics import Interval, bootstrap_by_user, weighted_auc, within
from components.routing.fit import Spec
from tune.objective import Score, ScoreData, crm_score, evaluate, judge

AUC_DECIMALS = 4  # policies that agree this far are told apart by LogLoss, then by share
SWEEP_SHARES = 10  # steps of the share at which the best of each kind are tried again


@dataclass(frozen=True)
class Candidate:
    """A scored policy; the CRM alone has no spec."""

    spec: Spec | None
    score: Score


def crm_alone(data: ScoreData) -> Candidate:
    """Return the policy of share 0, which every search holds the others against."""
    return Candidate(None, crm_score(data))


def best(candidates: Iterable[Candidate], without: int | None = None) -> Candidate:
    """Return the candidate of the highest AUC, on all folds or on all but one."""
    return max(candidates, key=lambda candidate: _merit(candidate.score, without))


def sweep(data: ScoreData, candidates: Sequence[Candidate], max_share: float) -> list[Candidate]:
    """Try the best candidate of each kind at even steps of the share, which fills the front of quality against share."""
    steps = [max_share * (step + 1) / SWEEP_SHARES for step in range(SWEEP_SHARES)]
    specs = [replace(spec, share=share) for spec in leading(candidates, 1) for share in steps]
    return [Candidate(spec, evaluate(data, spec)) for spec in specs]


def leading(candidates: Sequence[Candidate], per_kind: int) -> list[Spec]:
    """Return the specs of the best candidates of each kind (router and merge), no two alike but for the share."""
    kinds: dict[tuple[str, str], dict[Spec, Spec]] = {}
    for candidate in sorted(candidates, key=lambda candidate: _merit(candidate.score), reverse=True):
        if candidate.spec is not None:
            kind = kinds.setdefault((candidate.spec.router, candidate.spec.merge), {})
            kind.setdefault(replace(candidate.spec, share=0.0, weight=round(candidate.spec.weight, 1)), candidate.spec)
    return [spec for kind in kinds.values() for spec in list(kind.values())[:per_kind]]


def honest_gain(data: ScoreData, candidates: Sequence[Candidate], draws: int, seed: int) -> Interval:
    """Return what routing adds to the CRM's AUC, with its interval (paired bootstrap by user).

    Each fold's rows are answered by the candidate that is best on the other folds, fitted on them. So no policy is fitted on
    the labels that it is judged on, and none is preferred for them. Yet the fold is not unseen: its labels helped to fit the
    policies whose scores on other folds make that preference, and what Optuna proposed and the sweep tried again did well
    on all folds together. The search's own test gives it LLMs of noise: it has to ask none of them.
    """
    p_routed = np.array(data.rows["p_crm"], np.float64)
    for number, fold in enumerate(data.folds):
        spec = best(candidates, without=number).spec
        if spec is not None:
            p_routed[fold.index] = judge(fold, spec).p_routed
    label, p_crm, user = (data.rows[name] for name in ("label", "p_crm", "user_id"))
    return bootstrap_by_user(label, p_routed, p_crm, user, draws, seed, within(weighted_auc, data.fold_of_row))


def sentence(gain: Interval, share: float, asked: bool) -> str:
    """Say in one plain sentence what the LLM adds on validation and what the policy makes of it."""
    figures = f"AUC changes by {gain.difference:+.4f} (95 % interval {gain.low:+.4f} to {gain.high:+.4f})"
    if not asked:
        return f"On validation the LLM adds nothing measurable to the CRM: {figures}, so the policy asks it never."
    if gain.above_zero:
        return f"On validation the LLM adds to the CRM: {figures}, so the policy asks it about {share:.1%} of the candidates."
    about = f"as configured, the policy asks it about {share:.1%} of the candidates all the same"
    return f"On validation the LLM adds nothing measurable to the CRM: {figures}; {about}."


def as_table(candidates: Iterable[Candidate]) -> pd.DataFrame:
    """Return a row for each candidate: its parameters (none for the CRM alone) and its figures on unseen users."""
    return pd.DataFrame(
        {
            **({"router": "never", "target_share": 0.0} if item.spec is None else _parameters(item.spec)),
            "auc": item.score.auc(),
            "logloss": item.score.logloss(),
            "share": item.score.share(),
            **{f"auc_fold_{number}": value for number, value in enumerate(item.score.fold_auc)},
        }
        for item in candidates
    )


def pareto(points: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `points` (columns share, auc) that no other row beats in both, by growing share."""
    ordered = points.dropna(subset=["auc"]).sort_values(["share", "auc"], ascending=[True, False], kind="stable")
    best_before = ordered["auc"].cummax().shift(fill_value=-np.inf)
    return ordered.loc[ordered["auc"] > best_before].reset_index(drop=True)


def _merit(score: Score, without: int | None = None) -> tuple[float, float, float]:
    auc = score.auc(without)
    return (-np.inf if np.isnan(auc) else round(auc, AUC_DECIMALS)), -score.logloss(without), -score.share(without)


def _parameters(spec: Spec) -> dict[str, object]:
    parameters = asdict(spec)
    return {"router": parameters.pop("router"), "target_share": parameters.pop("share"), **parameters}
