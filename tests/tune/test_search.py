"""The search end to end on a local Ray, and what its configuration refuses."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import ray

from components import metrics
from components.errors import ConfigError, DataError, TandemError
from components.routing.calibration import Identity
from components.routing.policy import crm_only
from components.routing.signals import Array, Floats
from tests.components.routing.score_tables import score_table
from tune import search as search_module
from tune.choice import Candidate
from tune.objective import Fold, ScoreData, evaluate, prepare
from tune.search import Config, SearchResult, at_shares, search
from tune.trials import EndedTrial, Plan, _outcome, _proposals, _spec

CONFIG = Config(trials=24, draws=200)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="t", dir="/tmp")  # short: sockets below it have long names
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(Path(search_module.__file__).parents[1]))
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="WARNING", _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def helped(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, SearchResult, list[EndedTrial]]:
    del cluster  # it only has to run
    table, seen = score_table(), []
    lock = threading.Lock()  # can't be pickled, as little as a progress bar or a client of MLflow

    def on_trial(trial: EndedTrial) -> None:
        with lock:
            seen.append(trial)

    return table, search(table, CONFIG, str(tmp_path_factory.getbasetemp() / "tune"), on_trial), seen


@pytest.mark.ray
def test_an_llm_that_knows_new_items_is_asked_within_the_budget(helped: tuple[pd.DataFrame, SearchResult, list[EndedTrial]]) -> None:
    table, result, _ = helped
    routes = result.policy.decide(table)
    assert result.gain.above_zero
    assert 0 < routes.llm_share <= CONFIG.max_llm_share
    assert result.policy.max_llm_share == CONFIG.max_llm_share
    assert (table["item_popularity"][routes.arm == "llm"] == 0).mean() > 0.5
    assert metrics.auc(table["label"].to_numpy(), routes.p_routed) > metrics.auc(table["label"].to_numpy(), table["p_crm"].to_numpy())
    assert result.sentence.startswith("On validation the LLM adds to the CRM: AUC changes by +0.0")


@pytest.mark.ray
def test_a_policy_found_on_validation_holds_on_new_rows(helped: tuple[pd.DataFrame, SearchResult, list[EndedTrial]]) -> None:
    _, result, _ = helped
    test = score_table(seed=99)
    label = test["label"].to_numpy()
    assert metrics.auc(label, result.policy.decide(test).p_routed) > metrics.auc(label, test["p_crm"].to_numpy()) + 0.003


@pytest.mark.ray
def test_every_trial_is_told_and_listed_with_the_crm_alone_first(helped: tuple[pd.DataFrame, SearchResult, list[EndedTrial]]) -> None:
    _, result, seen = helped
    assert [trial.done for trial in seen] == list(range(1, 25))
    assert all(trial.total == 24 and trial.text.startswith("AUC 0.") for trial in seen)
    assert result.trials["router"].iloc[0] == "never"
    assert set(result.trials["router"].iloc[1:]) <= {"entropy", "gain"}
    assert len(result.trials) == len(result.candidates) > 25
    assert result.failures == ()


@pytest.mark.ray
def test_the_front_starts_at_the_crm_and_rises_to_the_best_trial(helped: tuple[pd.DataFrame, SearchResult, list[EndedTrial]]) -> None:
    _, result, _ = helped
    assert result.pareto["share"].iloc[0] == 0
    assert result.pareto["share"].is_monotonic_increasing
    assert result.pareto["auc"].is_monotonic_increasing
    assert result.pareto["auc"].iloc[-1] == result.trials["auc"].max()
    assert len(result.pareto) >= 5


@pytest.mark.ray
def test_the_same_seed_finds_the_same_policy_in_a_folder_used_before(
    helped: tuple[pd.DataFrame, SearchResult, list[EndedTrial]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table, result, _ = helped
    again = search(table, CONFIG, str(tmp_path_factory.getbasetemp() / "tune"))
    assert again.policy == result.policy
    pd.testing.assert_frame_equal(again.trials, result.trials)


@pytest.mark.ray
def test_policies_at_fixed_shares_spend_them_whatever_the_search_chose(
    helped: tuple[pd.DataFrame, SearchResult, list[EndedTrial]],
) -> None:
    table, result, _ = helped
    policies = at_shares(table, result.candidates, [0.1, 0.5, 1.0], CONFIG)
    for share, policy in policies.items():
        assert policy.decide(table).llm_share == pytest.approx(share, abs=0.001)
        assert policy.decide(table).llm_share <= share


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_an_llm_of_noise_is_never_asked_and_one_sentence_says_so(tmp_path: Path) -> None:
    result = search(score_table(llm_knows_new_items=False), CONFIG, str(tmp_path))
    assert result.policy == crm_only(CONFIG.max_llm_share)
    assert result.sentence.startswith("On validation the LLM adds nothing measurable to the CRM: AUC changes by ")
    assert result.sentence.endswith("so the policy asks it never.")
    assert set(at_shares(score_table(), result.candidates, [0.2], CONFIG)) == {0.2}


def _trials_in_this_process(data: ScoreData, plan: Plan, *_: object) -> tuple[list[Candidate], list[str]]:
    """Try what the search's own proposals are, each told how those before it did, without Ray."""
    proposals = _proposals(plan)
    proposals.set_search_properties("auc", "max", dict(plan.space))
    tried = []
    for number in range(plan.trials):
        spec = _spec(proposals.suggest(str(number)) or {}, plan.unit)
        tried.append(Candidate(spec, evaluate(data, spec)))
        proposals.on_trial_complete(str(number), {"auc": tried[-1].score.auc()})
    return tried, []


@pytest.mark.parametrize("seed", range(4))
def test_the_adaptive_search_asks_no_llm_whose_answers_are_anothers(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "run_trials", _trials_in_this_process)
    table = score_table(2_000, seed=seed)
    table["p_llm"] = np.random.default_rng(seed).permutation(table["p_llm"].to_numpy())
    result = search(table, replace(CONFIG, trials=40, seed=seed), "")
    assert len(result.candidates) > 40
    assert result.policy.never_asks


def test_the_adaptive_search_without_ray_asks_an_llm_that_knows_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "run_trials", _trials_in_this_process)
    assert not search(score_table(2_000), CONFIG, "").policy.never_asks


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_whole_requests_can_be_routed_on_a_thinned_table(tmp_path: Path) -> None:
    table = score_table()
    result = search(table, replace(CONFIG, trials=4, unit="request", rows=3_000, concurrent_trials=2), str(tmp_path))
    assert result.policy.unit == "request"
    assert result.policy.decide(table).llm_share <= CONFIG.max_llm_share


def _broken(data: ScoreData, calibrations: set[str]) -> ScoreData:
    # What is None can't be applied: each trial that takes one of these calibrations of the LLM fails.
    folds = [
        Fold(fold.index, fold.rest, fold.judged, {key: None if key[1] in calibrations else value for key, value in fold.fitted.items()})  # pyright: ignore[reportArgumentType]
        for fold in data.folds
    ]
    return ScoreData(data.rows, tuple(folds))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_failing_trial_is_skipped_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, seen = score_table(1_000), []
    data = _broken(prepare(table, 5), {"isotonic"})
    monkeypatch.setattr(search_module, "prepare", lambda *_: data)
    result = search(table, replace(CONFIG, trials=5, llm_calibrations=("none", "isotonic")), str(tmp_path), seen.append)
    failed = [trial for trial in seen if trial.error]
    assert 0 < len(failed) == len(result.failures) < 5
    assert all("isotonic" in line and "AttributeError" in line for line in result.failures)
    assert "failed and is skipped" in failed[0].text
    assert "isotonic" not in set(result.trials["llm_calibration"])


@dataclass(frozen=True)
class Deadly(Identity):
    """No calibration, but the first process that applies it is killed."""

    mark: Path

    def apply(self, p: Array) -> Floats:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().apply(p)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_killed_trial_is_tried_again_and_the_search_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, seen = score_table(1_000), []
    data = prepare(table, 5)
    folds = [replace(fold, fitted={**fold.fitted, ("p_llm", "isotonic"): Deadly(tmp_path / "killed")}) for fold in data.folds]
    monkeypatch.setattr(search_module, "prepare", lambda *_: ScoreData(data.rows, tuple(folds)))
    config = replace(CONFIG, trials=6, llm_calibrations=("none", "isotonic"))
    disturbed = search(table, config, str(tmp_path / "disturbed"), seen.append)
    assert (tmp_path / "killed").exists()
    assert disturbed.failures == ()
    assert [trial.done for trial in seen] == [1, 2, 3, 4, 5, 6]
    assert disturbed.trials.equals(search(table, config, str(tmp_path / "undisturbed")).trials)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_search_in_which_every_trial_fails_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = score_table(1_000)
    data = _broken(prepare(table, 5), {"none", "temperature", "platt", "isotonic"})
    monkeypatch.setattr(search_module, "prepare", lambda *_: data)
    with pytest.raises(TandemError, match=r"all failed; the first: .*AttributeError"):
        search(table, replace(CONFIG, trials=1), str(tmp_path))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_ctrl_c_during_the_search_ends_it_and_its_handler_is_the_callers_again(tmp_path: Path) -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def interrupt(trial: EndedTrial) -> None:
        seen.append(trial)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        search(score_table(1_000), replace(CONFIG, trials=6, concurrent_trials=1), str(tmp_path), interrupt)
    assert len(seen) == 1
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("metrics", [None, {}, {"auc": 0.5}])
def test_a_search_that_was_cut_short_is_no_search(metrics: dict[str, float] | None) -> None:
    config = replace(CONFIG, trials=2)
    point = search_module._first_points(config)[0]
    whole = {"score": asdict(evaluate(prepare(score_table(500), 3), search_module.Spec(**point)))}
    results = [SimpleNamespace(config=point, error=None, metrics=found) for found in (whole, metrics)]
    with pytest.raises(TandemError, match="expected 2 trials to end, 1 did"):
        _outcome(results, search_module._plan(config))  # pyright: ignore[reportArgumentType]


def test_a_table_of_too_few_users_is_refused_before_any_trial(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 5 users"):
        search(score_table(100, users=2), CONFIG, str(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trials": 0}, "trials"),
        ({"max_llm_share": 0.0}, "max_llm_share"),
        ({"max_llm_share": 1.2}, "max_llm_share"),
        ({"folds": 1}, "folds"),
        ({"cpus_per_trial": 0.0}, "cpus_per_trial"),
        ({"routers": ()}, "routers"),
        ({"routers": ("entropie",)}, "routers.*gain.*entropie"),
        ({"llm_calibrations": ("beta",)}, "llm_calibrations"),
    ],
)
def test_a_config_that_can_not_work_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Config(**change)  # pyright: ignore[reportArgumentType]


def test_the_default_search_space_can_be_evaluated_without_ray() -> None:
    data = prepare(score_table(500), 3)
    for point in search_module._first_points(Config()):
        assert 0 < evaluate(data, search_module.Spec(**point)).auc() < 1
