from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components import metrics
from components.routing.baselines import at_share, average, capped, oracle, placebo, random_routing, stacker
from components.routing.calibration import fit
from components.routing.fit import Spec, fit_policy
from components.routing.policy import crm_only, request_of
from components.routing.router import COLUMNS, RouterName
from components.routing.signals import logit, sigmoid
from tests.components.routing.score_tables import score_table

SPEC = Spec("gain", 0.2, "mix", 0.4, "platt", "platt")


def test_random_routing_spends_the_same_share_on_other_rows_each_draw() -> None:
    rows = score_table(1_000)
    draws = list(random_routing(rows, fit_policy(rows, SPEC), share=0.2))
    assert len(draws) == 20
    assert {route.llm_share for route in draws} == {0.2}
    assert (draws[0].arm != draws[1].arm).any()
    again = list(random_routing(rows, fit_policy(rows, SPEC), share=0.2))
    assert (draws[3].p_routed == again[3].p_routed).all()


def test_random_routing_merges_as_the_policy_does() -> None:
    rows = score_table(1_000)
    policy = fit_policy(rows, SPEC)
    route = next(random_routing(rows, policy, share=0.5))
    everywhere = fit_policy(rows, Spec("gain", 1.0, "mix", 0.4, "platt", "platt")).decide(rows).p_routed
    asked = route.arm == "llm"
    assert (route.p_routed[asked] == everywhere[asked]).all()
    assert (route.p_routed[~asked] == policy.crm_calibration.apply(rows["p_crm"].to_numpy())[~asked]).all()


def test_random_routing_of_requests_keeps_them_whole_and_within_the_share() -> None:
    rows = score_table(1_000, users=5)
    policy = fit_policy(rows, Spec("entropy", 0.3, "replace", 1.0, "none", "none", "request"))
    request = request_of(rows)
    for route in random_routing(rows, policy, share=0.3, draws=5):
        asked = route.arm == "llm"
        assert asked.mean() <= 0.3
        assert all(len(set(asked[request == one])) == 1 for one in np.unique(request))


@pytest.mark.parametrize("router", ["entropy", "gain"])
def test_at_a_share_a_policy_spends_it_exactly_wherever_its_threshold_lies(router: RouterName) -> None:
    valid, test = score_table(1_000, seed=1), score_table(1_000, seed=2)
    policy = fit_policy(valid, replace(SPEC, router=router))
    asked = at_share(test, policy, 0.3).arm == "llm"
    assert asked.mean() == 0.3
    estimate = policy.router.estimate(test)
    assert estimate[asked].min() > estimate[~asked].max()
    answered = replace(policy, threshold=estimate[~asked].max()).decide(test)
    assert (at_share(test, policy, 0.3).p_routed == answered.p_routed).all()


def test_at_a_share_rows_that_tie_are_taken_by_chance_until_it_is_spent() -> None:
    rows = score_table(1_000).assign(p_crm=np.repeat([0.5, 0.9], 500))
    one, other = (at_share(rows, crm_only(), 0.3, seed).arm == "llm" for seed in (0, 1))
    assert one.mean() == other.mean() == 0.3
    assert not one[500:].any()
    assert (one != other).any()


def test_at_a_share_requests_stay_whole_and_at_most_one_goes_unspent() -> None:
    rows = score_table(1_000, users=5)
    policy = fit_policy(rows, Spec("entropy", 0.1, "replace", 1.0, "none", "none", "request"))
    request = request_of(rows)
    asked = at_share(rows, policy, 0.3).arm == "llm"
    assert 300 - np.bincount(request).max() < asked.sum() <= 300
    assert all(len(set(asked[request == one])) == 1 for one in np.unique(request))


def test_a_capped_policy_asks_no_more_than_its_budget_and_where_it_asks_less_as_ever() -> None:
    rows = score_table(1_000)
    policy = fit_policy(rows, SPEC)
    spends_more, spends_less = (replace(policy, threshold=policy.threshold + step) for step in (-0.01, 0.01))
    assert spends_more.decide(rows).llm_share > 0.2
    assert capped(rows, spends_more).llm_share == 0.2
    assert 0 < spends_less.decide(rows).llm_share < 0.2
    assert (capped(rows, spends_less).arm == spends_less.decide(rows).arm).all()


def test_average_is_the_mean_of_platt_calibrated_logits_everywhere() -> None:
    valid, test = score_table(1_000, seed=1), score_table(1_000, seed=2)
    routes = average(valid, test)
    crm, llm = (fit("platt", valid[name].to_numpy(), valid["label"].to_numpy()).apply(test[name].to_numpy()) for name in ("p_crm", "p_llm"))
    assert set(routes.arm) == {"llm"}
    assert routes.p_routed == pytest.approx(sigmoid((logit(crm) + logit(llm)) / 2))


def test_the_stacker_finds_the_weights_that_labels_were_drawn_with() -> None:
    random = np.random.default_rng(0)
    tables = []
    for _ in range(2):
        crm, llm = random.normal(size=(2, 20_000))
        label = (random.random(20_000) < sigmoid(1.5 * crm - 0.5 * llm + 0.2)).astype(np.int8)
        tables.append({"p_crm": sigmoid(crm), "p_llm": sigmoid(llm), "label": label, **dict.fromkeys(COLUMNS[1:], np.ones(20_000))})
    valid, test = tables
    valid["p_llm"][:100] = np.nan
    test["p_llm"][0] = np.nan
    routes = stacker(valid, test)
    assert routes.arm.tolist() == ["crm"] + ["llm"] * 19_999
    expected = sigmoid(1.5 * logit(test["p_crm"][1:]) - 0.5 * logit(test["p_llm"][1:]) + 0.2)
    assert routes.p_routed[1:] == pytest.approx(expected, abs=0.03)
    assert routes.p_routed[0] == pytest.approx(fit("platt", valid["p_crm"], valid["label"]).apply(test["p_crm"][:1])[0])


def test_the_placebo_spends_the_given_share_on_answers_that_know_nothing() -> None:
    valid, test = score_table(1_000, seed=1), score_table(1_000, seed=2)
    policy = fit_policy(valid, Spec("entropy", 0.2, "replace", 1.0, "platt", "isotonic"))
    taken = policy.decide(test)
    routes = placebo(valid, test, policy, taken.llm_share)
    asked = routes.arm == "llm"
    assert (asked == policy.needs_llm(test)).all()
    assert set(routes.p_routed[asked]) == {valid["label"].mean()}
    assert (routes.p_routed[~asked] == taken.p_routed[~asked]).all()


def test_the_placebo_of_a_learned_router_asks_about_as_many_rows_though_it_learns_other_ones() -> None:
    valid, test = score_table(1_000, seed=1), score_table(1_000, seed=2)
    taken = fit_policy(valid, SPEC).decide(test)
    routes = placebo(valid, test, fit_policy(valid, SPEC), taken.llm_share)
    assert routes.llm_share == taken.llm_share
    assert (routes.arm != taken.arm).any()


def test_a_placebo_that_may_ask_nothing_is_the_crm() -> None:
    rows = score_table(300)
    assert (placebo(rows, rows, crm_only(), 0.0).p_routed == rows["p_crm"]).all()


def test_an_llm_that_knows_something_beats_the_placebo() -> None:
    valid, test = score_table(seed=1), score_table(seed=2)
    policy = fit_policy(valid, SPEC)
    label, routed = test["label"].to_numpy(), policy.decide(test)
    nothing = placebo(valid, test, policy, routed.llm_share)
    assert metrics.auc(label, routed.p_routed) > metrics.auc(label, nothing.p_routed) + 0.002


def test_the_oracle_replaces_the_rows_that_gain_most_and_none_that_lose() -> None:
    rows = {
        "p_crm": np.array([0.5, 0.5, 0.5, 0.5]),
        "p_llm": np.array([0.6, 0.9, 0.9, 0.8]),
        "label": np.array([1, 1, 0, 1]),
    }
    assert oracle(rows, crm_only(), share=0.25).arm.tolist() == ["crm", "llm", "crm", "crm"]
    assert oracle(rows, crm_only(), share=0.5).arm.tolist() == ["crm", "llm", "crm", "llm"]
    assert oracle(rows, crm_only(), share=1.0).arm.tolist() == ["llm", "llm", "crm", "llm"]
    assert oracle(rows, crm_only(), share=1.0).p_routed.tolist() == [0.6, 0.9, 0.5, 0.8]


def test_the_oracle_of_whole_requests_weighs_all_their_rows_together() -> None:
    rows = {
        "p_crm": np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        "p_llm": np.array([0.9, 0.1, 0.7, np.nan, 0.8, 0.4]),
        "label": np.array([1, 1, 1, 1, 1, 1]),
        "user_id": np.array([0, 0, 1, 1, 2, 2]),
        "timestamp_s": np.zeros(6, np.int64),
    }
    # Row by row the first gains most, but its request loses: ln(.9 .1) < ln(.5 .5). The others gain ln 1.4 and ln 1.28.
    whole = crm_only(unit="request")
    assert oracle(rows, crm_only(), share=0.2).arm.tolist() == ["llm", "crm", "crm", "crm", "crm", "crm"]
    assert oracle(rows, whole, share=0.4).arm.tolist() == ["crm", "crm", "llm", "crm", "crm", "crm"]
    assert oracle(rows, whole, share=1.0).arm.tolist() == ["crm", "crm", "llm", "crm", "llm", "llm"]


def test_at_one_share_the_oracle_beats_the_policy_and_the_policy_beats_chance() -> None:
    rows = score_table()
    policy = fit_policy(rows, SPEC)
    label = rows["label"].to_numpy()
    chance = np.mean([metrics.auc(label, route.p_routed) for route in random_routing(rows, policy, share=0.2)])
    routed = metrics.auc(label, policy.decide(rows).p_routed)
    assert chance < routed < metrics.auc(label, oracle(rows, policy, share=0.2).p_routed)
