"""Ray Tune with Optuna: trials of policies on prepared scores. The only file of the search that knows how Tune works."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from ray import tune
from ray.tune import ResultGrid
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from components.errors import TandemError
from components.routing.fit import Spec
from components.routing.policy import Unit
from tune.choice import Candidate
from tune.objective import Score, ScoreData, evaluate

NAME = "policy-search"  # Tune's folder below the storage path
RETRIES = 1  # of a trial: where its process was lost it must not be missed, or the search would come to another end


@dataclass(frozen=True)
class Plan:
    """What Tune is to try, and how."""

    space: Mapping[str, Any]  # the fields of a Spec except `unit`, as Tune's domains
    first: tuple[dict[str, Any], ...]  # parameters to try before any are drawn
    unit: Unit
    trials: int
    concurrent: int
    cpus: float  # logical, of one trial
    seed: int


@dataclass(frozen=True)
class EndedTrial:
    """One finished trial, for whoever watches."""

    done: int  # trials finished so far, this one included
    total: int
    parameters: Mapping[str, Any]
    auc: float | None  # on unseen users; None where the trial failed
    share: float | None
    error: str | None

    @property
    def text(self) -> str:
        return f"trial failed and is skipped: {self.error}" if self.error else f"AUC {self.auc:.4f} at share {self.share:.1%}"


OnTrial = Callable[[EndedTrial], None]


def run_trials(data: ScoreData, plan: Plan, storage_path: str, on_trial: OnTrial) -> tuple[list[Candidate], list[str]]:
    """Return the candidates that Tune tried, and a line for each trial that failed. Ray must be running."""
    trainable = tune.with_resources(tune.with_parameters(run_trial, data=data, unit=plan.unit), {"cpu": plan.cpus})
    with _quiet(), _discreet():
        results = _tuner(trainable, plan, storage_path, on_trial).fit()
    return _outcome(results, plan)


def _outcome(results: ResultGrid, plan: Plan) -> tuple[list[Candidate], list[str]]:
    """Return what trials found, and a line for each that failed; raise TandemError where a trial did neither."""
    tried, failures = [], []
    for result in results:
        assert result.config is not None
        if result.error is not None:
            failures.append(f"{result.config}: {_last_line(result.error)}")
        elif result.metrics and "score" in result.metrics:
            tried.append(Candidate(_spec(result.config, plan.unit), Score(**result.metrics["score"])))
    ended = len(tried) + len(failures)
    if ended != plan.trials:  # fewer would pass for the whole search, and never be made up for
        raise TandemError(f"tune: expected {plan.trials} trials to end, {ended} did")
    return tried, failures


def run_trial(parameters: dict[str, Any], data: ScoreData, unit: Unit) -> None:
    """Score one policy and report it to Tune."""
    score = evaluate(data, _spec(parameters, unit))
    tune.report({"auc": score.auc(), "share": score.share(), "score": asdict(score)})


def _spec(parameters: Mapping[str, Any], unit: Unit) -> Spec:
    # "replace" has no weight: without it, equal policies look equal.
    spec = Spec(**parameters, unit=unit)
    return replace(spec, weight=1.0) if spec.merge == "replace" else spec


def _proposals(plan: Plan) -> OptunaSearch:
    """Return what proposes the parameters to try, from how those before them did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=plan.seed, multivariate=True, constant_liar=plan.concurrent > 1)
    return OptunaSearch(sampler=sampler, points_to_evaluate=list(plan.first[: plan.trials]))


def _tuner(trainable: Callable[..., Any], plan: Plan, storage_path: str, on_trial: OnTrial) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        param_space=dict(plan.space),
        tune_config=tune.TuneConfig(
            metric="auc",
            mode="max",
            search_alg=_proposals(plan),
            num_samples=plan.trials,
            max_concurrent_trials=plan.concurrent,
            # A fresh worker process a trial would take a hundred times longer than the trial.
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=storage_path,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[JsonLoggerCallback(), _Watch(plan.trials, on_trial)],
        ),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Tune and Optuna from printing, and Tune from writing what nobody reads; it takes both from the environment alone.

    Ctrl-C stays the caller's: Tune would end the search with the trials there are, as if it were done, and keep its handler in place.
    """
    wanted = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    verbosity = optuna.logging.get_verbosity()
    os.environ.update(wanted)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _discreet() -> Iterator[None]:
    """Keep Tune from handing this process's credentials to trials, in a form that Ray writes to its logs; trials read no store."""
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if not name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


def _name(trial: Trial) -> str:
    return f"trial-{trial.trial_id}"


class _Watch(tune.Callback):
    """Tells whoever watches of each trial that ends."""

    def __init__(self, total: int, on_trial: OnTrial) -> None:
        self._done, self._total, self._on_trial = 0, total, on_trial

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # Tune pickles its callbacks to be able to restore a run; what `on_trial` holds may not be picklable.
        return tune.Callback, ()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        del iteration, trials, info
        self._tell(trial, trial.last_result["auc"], trial.last_result["share"], None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        del iteration, trials, info
        self._tell(trial, None, None, _last_line(trial.get_error()))

    def _tell(self, trial: Trial, auc: float | None, share: float | None, error: str | None) -> None:
        self._done += 1
        self._on_trial(EndedTrial(self._done, self._total, trial.config, auc, share, error))


def _last_line(error: Exception | None) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
