"""The search for a routing policy over the validation score table, and the test whether the LLM pays at all.

One objective, AUC, with the share as a parameter below the budget. Searching for AUC and share at once gave worse policies
and a front only a few percent better; the front is filled by a sweep over shares afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import pandas as pd
from ray import tune

from components.errors import ConfigError, TandemError
from components.metrics import Interval
from components.routing.calibration import CalibrationName
from components.routing.fit import Spec, fit_policy
from components.routing.policy import Merge, Policy, Unit, crm_only
from components.routing.router import RouterName
from tune.choice import Candidate, as_table, best, crm_alone, honest_gain, leading, pareto, sentence, sweep
from tune.objective import evaluate, prepare, thinned
from tune.trials import OnTrial, Plan, run_trials

LEAST_SHARE = 0.01
FINALISTS = 3  # of each pair of router and merge: what `at_shares` tries at each share


@dataclass(frozen=True)
class Config:
    """How the routing policy is looked for."""

    trials: int = 80
    """Policies that Ray Tune tries."""
    max_llm_share: float = 0.3
    """Budget: LLM-scored candidates / all candidates, at most."""
    routers: tuple[RouterName, ...] = ("entropy", "gain")
    """Estimates to try; margin orders rows exactly as entropy does, so one of the two is enough."""
    merges: tuple[Merge, ...] = ("replace", "mix")
    """How an LLM answer is used: in the CRM's place, or as a weighted mean of logits."""
    crm_calibrations: tuple[CalibrationName, ...] = ("none", "temperature", "platt", "isotonic")
    """Calibrations of the CRM to try."""
    llm_calibrations: tuple[CalibrationName, ...] = ("none", "temperature", "platt", "isotonic")
    """Calibrations of the LLM to try."""
    unit: Unit = "candidate"
    """What is routed together: each candidate, or all candidates of one user in one second."""
    folds: int = 5
    """Parts of the users; each is judged by policies fitted on the others."""
    rows: int = 200_000
    """Validation rows that trials look at; a larger table is thinned by whole users. The final policy is fitted on all."""
    draws: int = 500
    """Resamples of users for the interval of the gain."""
    gain_must_be_significant: bool = True
    """Never ask the LLM unless the whole 95 % interval of its gain in AUC lies above 0."""
    cpus_per_trial: float = 0.1
    """Logical CPUs of one trial."""
    concurrent_trials: int = 1
    """Trials that run at a time. They are short, so 1 is quick, and the same seed then gives the same search."""
    seed: int = 0
    """Seed of the search and of the resamples."""

    def __post_init__(self) -> None:
        if not LEAST_SHARE <= self.max_llm_share <= 1:
            raise ConfigError(f"tune.max_llm_share: expected a share from {LEAST_SHARE} to 1, got {self.max_llm_share}")
        if min(self.trials, self.draws, self.concurrent_trials, self.rows) < 1 or self.folds < 2 or self.cpus_per_trial <= 0:
            raise ConfigError("tune: expected trials, rows, draws and concurrent_trials >= 1, folds >= 2 and cpus_per_trial > 0")
        choices = {"routers": RouterName, "merges": Merge, "crm_calibrations": CalibrationName, "llm_calibrations": CalibrationName}
        for name, allowed in choices.items():
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(get_args(allowed)):
                raise ConfigError(f"tune.{name}: expected one or more of {', '.join(get_args(allowed))}, got {chosen!r}")


@dataclass(frozen=True)
class SearchResult:
    """What the search found."""

    policy: Policy
    gain: Interval  # of AUC over the CRM alone
    sentence: str
    trials: pd.DataFrame  # as choice.as_table, the CRM alone first
    pareto: pd.DataFrame  # the rows of `trials` on the front of AUC against share
    candidates: tuple[Candidate, ...]  # the rows of `trials`
    failures: tuple[str, ...]  # one line for each trial that failed


def search(valid: pd.DataFrame, config: Config, storage_path: str, on_trial: OnTrial = lambda _: None) -> SearchResult:
    """Search for the policy of the highest AUC on unseen users within the budget; Ray must be running.

    `valid` is the validation part of a score table; `storage_path` (a folder or URI) takes Tune's own files, which nothing
    reads later. Raises DataError where the table does not suffice, TandemError where every trial fails.
    """
    data = prepare(thinned(valid, config.rows), config.folds, _calibrations(config))
    tried, failures = run_trials(data, _plan(config), storage_path, on_trial)
    if not tried:
        raise TandemError(f"tune: expected at least one of {config.trials} trials to succeed, all failed; the first: {failures[0]}")
    candidates = [crm_alone(data), *tried, *sweep(data, tried, config.max_llm_share)]
    gain = honest_gain(data, candidates, config.draws, config.seed)
    spec = best(candidates).spec
    if spec is None or (config.gain_must_be_significant and not gain.above_zero):
        policy = crm_only(config.max_llm_share, config.unit)
    else:
        policy = fit_policy(valid, spec, max_llm_share=config.max_llm_share)
    table = as_table(candidates)
    said = sentence(gain, policy.expected_share, not policy.never_asks)
    return SearchResult(policy, gain, said, table, pareto(table), tuple(candidates), tuple(failures))


def at_shares(valid: pd.DataFrame, candidates: Sequence[Candidate], shares: Sequence[float], config: Config) -> dict[float, Policy]:
    """Return for each share the policy that validation prefers there, whatever the search decided.

    The best candidates of each kind are scored at the share on unseen users; the best is fitted on all of `valid`.
    """
    data = prepare(thinned(valid, config.rows), config.folds, _calibrations(config))
    policies = {}
    for share in shares:
        specs = [replace(spec, share=share) for spec in leading(candidates, FINALISTS)]
        chosen = best(Candidate(spec, evaluate(data, spec)) for spec in specs).spec
        assert chosen is not None
        policies[share] = fit_policy(valid, chosen)
    return policies


def _plan(config: Config) -> Plan:
    space = {
        "router": tune.choice(list(config.routers)),
        "share": tune.uniform(LEAST_SHARE, config.max_llm_share),
        "merge": tune.choice(list(config.merges)),
        "weight": tune.uniform(0.0, 1.0),
        "crm_calibration": tune.choice(list(config.crm_calibrations)),
        "llm_calibration": tune.choice(list(config.llm_calibrations)),
    }
    return Plan(
        space=space,
        first=_first_points(config),
        unit=config.unit,
        trials=config.trials,
        concurrent=config.concurrent_trials,
        cpus=config.cpus_per_trial,
        seed=config.seed,
    )


def _first_points(config: Config) -> tuple[dict[str, Any], ...]:
    """Return parameters to try first: CoReLLa's rule as published, and a mean of calibrated logits where the gain is largest."""
    wanted = (
        Spec("entropy", config.max_llm_share, "replace", 1.0, "none", "none"),
        Spec("gain", config.max_llm_share, "mix", 0.5, "platt", "platt"),
    )
    allowed = {
        "router": config.routers,
        "merge": config.merges,
        "crm_calibration": config.crm_calibrations,
        "llm_calibration": config.llm_calibrations,
    }
    points = ({name: value for name, value in asdict(spec).items() if name != "unit"} for spec in wanted)
    return tuple(point for point in points if all(point[name] in values for name, values in allowed.items()))


def _calibrations(config: Config) -> tuple[CalibrationName, ...]:
    return tuple(sorted({*config.crm_calibrations, *config.llm_calibrations}))
