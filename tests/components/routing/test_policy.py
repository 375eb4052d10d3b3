from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ArtifactError, ConfigError
from components.routing.calibration import CalibrationName, Identity, Platt, Temperature
from components.routing.fit import Spec, fit_policy, gains
from components.routing.policy import Policy, crm_only, request_of, threshold_for
from components.routing.router import COLUMNS, EntropyRouter, GainRouter
from components.routing.signals import logit, sigmoid
from tests.components.routing.score_tables import score_table

SPECS = st.builds(
    Spec,
    router=st.sampled_from(["entropy", "margin", "gain"]),
    share=st.floats(0, 1),
    merge=st.sampled_from(["replace", "mix"]),
    weight=st.floats(0, 1),
    crm_calibration=st.sampled_from(get_args(CalibrationName)),
    llm_calibration=st.sampled_from(get_args(CalibrationName)),
    unit=st.sampled_from(["candidate", "request"]),
)


def _policy(**changes: object) -> Policy:
    parts = {
        "router": EntropyRouter(),
        "threshold": 0.6,
        "merge": "replace",
        "weight": 0.5,
        "crm_calibration": Identity(),
        "llm_calibration": Identity(),
        "unit": "candidate",
        "max_llm_share": 0.3,
        "expected_share": 0.25,
    }
    return Policy(**(parts | changes))  # pyright: ignore[reportArgumentType]


def _three_rows() -> dict[str, np.ndarray]:
    # Entropies: .693, .325, .673.
    return {"p_crm": np.array([0.5, 0.9, 0.4]), "p_llm": np.array([0.8, 0.1, np.nan])}


def test_rows_above_the_threshold_get_the_llms_answer() -> None:
    routes = _policy().decide(_three_rows())
    assert routes.arm.tolist() == ["llm", "crm", "crm"]
    assert routes.p_routed.tolist() == [0.8, 0.9, 0.4]
    assert routes.llm_share == pytest.approx(1 / 3)


def test_a_row_is_to_be_asked_although_the_llm_then_gives_no_answer() -> None:
    assert _policy().needs_llm({"p_crm": _three_rows()["p_crm"]}).tolist() == [True, False, True]


def test_mix_is_the_weighted_mean_of_calibrated_logits() -> None:
    policy = _policy(merge="mix", weight=0.25, crm_calibration=Temperature(2.0), llm_calibration=Platt(0.5, 1.0))
    routes = policy.decide(_three_rows())
    # Row 0: crm logit 0 / 2 = 0, llm logit .5 ln 4 + 1 = 1.693147; .25 of it = .423287 -> .604269.
    assert routes.p_routed[0] == pytest.approx(0.604269, abs=1e-6)
    # Row 1 keeps the calibrated CRM: ln 9 / 2 = ln 3 -> .75.
    assert routes.p_routed[1] == pytest.approx(0.75)


def test_a_request_is_routed_whole_by_its_mean_estimate() -> None:
    rows = {
        "user_id": np.array(["a", "b", "a", "b", "a"]),
        "timestamp_s": np.array([1, 1, 1, 1, 2]),
        "p_crm": np.array([0.5, 0.9, 0.9, 0.95, 0.5]),
        "p_llm": np.full(5, 0.7),
    }
    # Mean entropies: (a, 1) = (.693 + .325) / 2 = .509; (b, 1) = (.325 + .199) / 2 = .262; (a, 2) = .693.
    assert request_of(rows).tolist() == [0, 1, 0, 1, 2]
    assert _policy(unit="request", threshold=0.5).needs_llm(rows).tolist() == [True, False, True, False, True]
    assert _policy(unit="request", threshold=0.6).needs_llm(rows).tolist() == [False, False, False, False, True]


def test_the_policy_of_share_0_answers_with_the_crm_as_it_is() -> None:
    routes = crm_only().decide(_three_rows())
    assert routes.arm.tolist() == ["crm"] * 3
    assert routes.p_routed.tolist() == [0.5, 0.9, 0.4]
    assert crm_only().reads() == "Never ask the LLM. Answer everything with the CRM's probability as it is."


@pytest.mark.parametrize(
    ("estimate", "share", "expected"),
    [
        ([1, 2, 3, 4], 0.5, [3, 4]),
        ([1, 2, 3, 4], 0.49, [4]),  # 1.96 rows: one
        ([1, 3, 3, 3], 0.5, []),  # three tie for two places: none
        ([1, 3, 3, 4], 0.5, [4]),
        ([1, 2, 3, 4], 1.0, [1, 2, 3, 4]),
        ([1, 2, 3, 4], 0.0, []),
    ],
)
def test_rows_that_tie_at_the_threshold_never_break_the_budget(estimate: list[int], share: float, expected: list[int]) -> None:
    values = np.array(estimate, float)
    assert values[values > threshold_for(values, share)].tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3]), min_size=1, max_size=60), st.floats(0, 1))
def test_the_threshold_keeps_to_the_share_and_no_lower_value_does(estimate: list[float], share: float) -> None:
    values = np.array(estimate)
    threshold = threshold_for(values, share)
    assert (values > threshold).sum() <= share * len(values) + 1e-6
    lower = values[values <= threshold]
    if len(lower) and threshold > -math.inf:
        assert (values >= lower.max()).sum() > math.floor(share * len(values) + 1e-9)


@settings(max_examples=50, deadline=None)
@given(SPECS, st.integers(0, 3), st.sampled_from([1, 2, 12]))
def test_a_fitted_policy_keeps_its_budget_and_leaves_other_rows_to_the_calibrated_crm(spec: Spec, seed: int, decimals: int) -> None:
    rows = score_table(400, users=20, seed=seed)
    rows["p_crm"] = rows["p_crm"].round(decimals).clip(0.01, 0.99)  # few decimals: many ties
    policy = fit_policy(rows, spec)
    routes = policy.decide(rows)
    assert routes.llm_share <= spec.share + 1e-9
    assert routes.llm_share == pytest.approx(policy.expected_share)
    kept = routes.arm == "crm"
    assert (routes.p_routed[kept] == policy.crm_calibration.apply(rows["p_crm"].to_numpy())[kept]).all()
    assert ((routes.p_routed >= 0) & (routes.p_routed <= 1)).all()


@settings(max_examples=40, deadline=None)
@given(SPECS)
def test_a_policy_read_back_from_json_decides_the_same(spec: Spec) -> None:
    rows = score_table(300, users=20)
    policy = fit_policy(rows, spec)
    again = Policy.from_json(json.loads(json.dumps(policy.to_json(), allow_nan=False)))
    assert again == policy
    before, after = policy.decide(rows), again.decide(rows)
    assert (before.arm == after.arm).all()
    assert (before.p_routed == after.p_routed).all()


def test_what_to_ask_is_known_before_the_llm_answers_and_from_a_tables_or_a_mappings_columns() -> None:
    rows = score_table(300)
    policy = fit_policy(rows, Spec("gain", 0.3, "mix", 0.5, "platt", "platt"))
    expected = policy.decide(rows).arm == "llm"
    assert (policy.needs_llm(rows[list(COLUMNS)]) == expected).all()
    assert (policy.needs_llm({name: rows[name].to_numpy() for name in COLUMNS}) == expected).all()


def test_the_gain_router_sends_the_new_items_that_only_the_llm_knows() -> None:
    rows = score_table()
    asked = fit_policy(rows, Spec("gain", 0.2, "replace", 1.0, "platt", "platt")).needs_llm(rows)
    assert (rows.item_popularity[asked] == 0).mean() > 0.95


def test_a_row_that_the_llm_did_not_answer_teaches_the_router_nothing() -> None:
    rows = score_table(500)
    rows.loc[rows.index % 4 == 0, "p_llm"] = np.nan
    spec = Spec("gain", 0.3, "replace", 1.0, "none", "none")
    with_holes, without = fit_policy(rows, spec), fit_policy(rows[rows.p_llm.notna()], spec)
    assert with_holes.router == without.router


def test_the_gain_is_the_logloss_saved() -> None:
    rows = pd.DataFrame({"label": [1, 0, 1], "p_crm": [0.5, 0.5, 0.5], "p_llm": [0.8, 0.8, np.nan]})
    found = gains(rows, Identity(), Identity(), "replace", 1.0)
    # ln(.8 / .5) = .470004; ln(.2 / .5) = -.916291.
    assert found[:2] == pytest.approx([0.470004, -0.916291], abs=1e-6)
    assert np.isnan(found[2])
    assert gains(rows, Identity(), Identity(), "mix", 0.5)[0] == pytest.approx(np.log(sigmoid(logit(np.array(0.8)) / 2) / 0.5))


def test_the_policy_says_in_plain_words_what_it_does() -> None:
    assert _policy(llm_calibration=Temperature(2.0)).reads() == (
        "Ask the LLM about a candidate where the CRM's entropy (nats) is above 0.6: 25.0% of the candidates on validation, 30% allowed. "
        "Answer there with the LLM's probability after temperature calibration; everywhere else with the CRM's probability as it is."
    )
    mixed = _policy(merge="mix", weight=0.25, unit="request", router=GainRouter(0.0, (0.0,) * 6)).reads()
    assert "the mean, in logits, of the LLM's probability as it is (weight 0.25)" in mixed
    assert "a request (one user, one second) where the mean of the expected gain" in mixed


def test_a_policy_that_always_asks_says_so() -> None:
    assert _policy(threshold=-math.inf).reads() == "Ask the LLM about everything. Answer with the LLM's probability as it is."


def test_thresholds_that_ask_always_or_never_survive_json() -> None:
    for threshold in (math.inf, -math.inf):
        written = json.dumps(_policy(threshold=threshold).to_json(), allow_nan=False)
        assert Policy.from_json(json.loads(written)).threshold == threshold


@pytest.mark.parametrize("change", [{"merge": "sum"}, {"unit": "user"}, {"weight": 1.5}, {"max_llm_share": -0.1}, {"threshold": math.nan}])
def test_a_policy_with_an_impossible_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        _policy(**change)


def test_policy_json_with_a_key_too_many_or_too_few_is_refused() -> None:
    written = crm_only().to_json()
    with pytest.raises(ArtifactError, match="colour"):
        Policy.from_json(written | {"colour": "red"})
    del written["merge"]
    with pytest.raises(ArtifactError, match="merge"):
        Policy.from_json(written)


@pytest.mark.parametrize("change", [{"share": 1.5}, {"weight": -0.1}])
def test_a_spec_outside_its_bounds_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="share and weight"):
        Spec(**({"share": 0.3, "weight": 0.5} | change), router="gain", merge="mix", crm_calibration="none", llm_calibration="none")
