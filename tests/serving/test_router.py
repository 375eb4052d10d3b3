"""The online router on a handful of candidates, by hand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from components.errors import ConfigError
from components.features.visit import Candidate, Visit
from components.routing.calibration import Identity, Isotonic, Platt
from components.routing.policy import Policy, crm_only
from components.routing.router import EntropyRouter, MarginRouter
from serving.router import PRIOR, RESERVE_S, Limits, LlmFailureError, Scored, choose, route

NAN = float("nan")
P_CRM = [0.5, 0.9, 0.4, 0.05]  # margins 0, 0.4, 0.1, 0.45: by doubt the candidates come a, c, b, d
ALWAYS = Limits(deadline_s=1.0)
VISIT = Visit("ann", {"mood": "calm"}, (("x", 4.0),), 3, tuple(Candidate(name) for name in "abcd"), {"device": "phone"})


def policy(threshold: float = -0.2, merge: Any = "replace", unit: Any = "candidate", weight: float = 1.0) -> Policy:
    return Policy(MarginRouter(), threshold, merge, weight, Identity(), Identity(), unit, 1.0, 0.5)


def rows(p_crm: Sequence[float] = P_CRM) -> dict[str, np.ndarray]:
    count = len(p_crm)
    extra = {name: np.ones(count, np.int64) for name in ("item_popularity", "user_popularity", "earlier_count")}
    return {"p_crm": np.array(p_crm, np.float64), **extra}


class Llm:
    """Answers from a table of candidates, or fails."""

    def __init__(self, answer: dict[str, float] | str) -> None:
        self._answer, self.asked = answer, []

    async def __call__(self, visit: Visit, timeout_s: float) -> np.ndarray:
        self.asked.append((visit, timeout_s))
        if isinstance(self._answer, str):
            raise LlmFailureError(self._answer)
        return np.array([self._answer[candidate.item_id] for candidate in visit.candidates])

    @property
    def names(self) -> list[str]:
        return ["".join(candidate.item_id for candidate in visit.candidates) for visit, _ in self.asked]


def answered(one: Policy, llm: Llm, limits: Limits = ALWAYS, p_crm: Sequence[float] = P_CRM) -> Scored:
    return asyncio.run(route(one, VISIT, rows(p_crm), llm, limits, lambda: 0.0))


def sure() -> Llm:
    return Llm({"a": 0.8, "b": 0.7, "c": 0.2, "d": 0.6})


def test_where_the_crm_doubts_the_llm_answers() -> None:
    llm = sure()
    found = answered(policy(), llm)
    assert llm.names == ["ac"]
    assert found.score.tolist() == [0.8, 0.9, 0.2, 0.05]
    assert found.arm.tolist() == ["llm", "crm", "llm", "crm"]
    assert found.p_crm.tolist() == P_CRM
    assert found.p_llm == pytest.approx([0.8, NAN, 0.2, NAN], nan_ok=True)
    assert found.reason == ["above_threshold", "below_threshold", "above_threshold", "below_threshold"]
    assert found.degraded_cause is None


def test_confidence_is_one_minus_the_entropy_in_bits() -> None:
    bits = [-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in P_CRM]
    assert answered(policy(), sure()).confidence == pytest.approx([1 - bit for bit in bits])


def test_mixing_takes_the_mean_of_the_calibrated_logits() -> None:
    one = Policy(MarginRouter(), -0.2, "mix", 0.75, Platt(2.0, 0.0), Platt(1.0, 0.5), "candidate", 1.0, 0.5)
    found = answered(one, sure())
    logit = 0.25 * 2 * math.log(0.4 / 0.6) + 0.75 * (math.log(0.2 / 0.8) + 0.5)
    assert found.score[2] == pytest.approx(1 / (1 + math.exp(-logit)))
    assert found.score[1] == pytest.approx(0.9**2 / (0.9**2 + 0.1**2)), "the calibrated CRM where it answers alone"


def test_the_llm_reads_the_visit_as_it_is_with_fewer_candidates_and_less_time() -> None:
    llm = sure()
    clock = iter([100.0, 103.5])
    found = asyncio.run(route(policy(), VISIT, rows(), llm, Limits(deadline_s=102.0), lambda: next(clock)))
    ((visit, timeout_s),) = llm.asked
    assert visit == Visit("ann", {"mood": "calm"}, (("x", 4.0),), 3, (Candidate("a"), Candidate("c")), {"device": "phone"})
    assert timeout_s == pytest.approx(2.0 - RESERVE_S)
    assert found.llm_s == 3.5


def test_descriptions_stay_with_their_candidates() -> None:
    described = Visit(None, {}, (), 0, (Candidate("a"), Candidate("b"), Candidate("c", {"title": "C"}), Candidate("d")))
    llm = sure()
    asyncio.run(route(policy(), described, rows(), llm, ALWAYS, lambda: 0.0))
    assert llm.asked[0][0].candidates == (Candidate("a"), Candidate("c", {"title": "C"}))


@pytest.mark.parametrize(
    ("share", "asked"), [(1.0, "abc"), (0.75, "abc"), (0.74, "ac"), (0.5, "ac"), (0.49, "a"), (0.25, "a"), (0.24, ""), (0.0, "")]
)
def test_the_share_is_rounded_down_and_goes_to_the_worthiest(share: float, asked: str) -> None:
    llm = sure()
    found = answered(policy(-0.41), llm, Limits(1.0, share))
    assert llm.names == ([asked] if asked else [])
    names = {"above_threshold": asked, "over_budget": "".join(set("abc") - set(asked)), "below_threshold": "d"}
    expected = [next(reason for reason, items in names.items() if item in items) for item in "abcd"]
    assert found.reason == expected
    assert found.degraded_cause is None


def test_a_share_that_rounding_makes_a_little_too_small_holds_all_that_it_means() -> None:
    # 0.29 * 100 is 28.999999999999996
    _, asked = choose(policy(-math.inf), rows([0.5] * 100), 0.29)
    assert asked.sum() == 29


def test_of_equally_worthy_candidates_the_first_are_asked() -> None:
    _, asked = choose(policy(-math.inf), rows([0.5, 0.5, 0.5, 0.5]), 0.5)
    assert asked.tolist() == [True, True, False, False]


def test_an_estimate_at_the_threshold_is_not_above_it() -> None:
    wanted, asked = choose(policy(0.0), rows(), 1.0)
    assert not wanted.any()
    assert not asked.any()


def test_requests_are_routed_whole_by_their_mean() -> None:
    # the mean of the estimates is -(0 + 0.4 + 0.1 + 0.45) / 4 = -0.2375
    for threshold, names in ((-0.24, ["abcd"]), (-0.23, [])):
        llm = sure()
        found = answered(policy(threshold, unit="request"), llm)
        assert llm.names == names
        assert found.reason == ["above_threshold" if names else "below_threshold"] * 4


def test_a_request_that_exceeds_the_share_is_not_asked_in_part() -> None:
    llm = sure()
    found = answered(policy(-0.3, unit="request"), llm, Limits(1.0, 0.99))
    assert (llm.names, found.reason, found.degraded_cause) == ([], ["over_budget"] * 4, None)
    assert found.score.tolist() == P_CRM


@pytest.mark.parametrize("unit", ["candidate", "request"])
def test_a_policy_that_never_asks_does_not(unit: Any) -> None:
    llm = sure()
    found = answered(crm_only(1.0, unit), llm)
    assert (llm.names, found.reason, found.score.tolist()) == ([], ["below_threshold"] * 4, P_CRM)


@pytest.mark.parametrize(("threshold", "asked"), [(-math.inf, ["abcd"]), (-0.05, ["a"]), (math.inf, [])])
def test_a_requests_threshold_takes_the_place_of_the_policys(threshold: float, asked: list[str]) -> None:
    llm = sure()
    answered(policy(), llm, Limits(1.0, threshold=threshold))
    assert llm.names == asked


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a threshold, got nan"):
        answered(policy(), sure(), Limits(1.0, threshold=NAN))


@pytest.mark.parametrize("merge", ["replace", "mix"])
def test_where_the_llm_fails_the_crm_answers_and_the_cause_is_told(merge: Any) -> None:
    found = answered(policy(merge=merge), Llm("llm_timeout"))
    assert (found.score.tolist(), found.arm.tolist()) == (P_CRM, ["crm"] * 4)
    assert np.isnan(found.p_llm).all()
    assert found.reason == ["llm_failed", "below_threshold", "llm_failed", "below_threshold"]
    assert found.degraded_cause == "llm_timeout"


@pytest.mark.parametrize("value", [NAN, 1.5, -0.1, math.inf])
def test_an_llm_answer_that_is_no_probability_is_left_out(value: float) -> None:
    found = answered(policy(), Llm({"a": value, "c": 0.2}))
    assert found.score.tolist() == [0.5, 0.9, 0.2, 0.05]
    assert found.arm.tolist() == ["crm", "crm", "llm", "crm"]
    assert found.p_llm == pytest.approx([NAN, NAN, 0.2, NAN], nan_ok=True)
    assert found.reason == ["llm_failed", "below_threshold", "above_threshold", "below_threshold"]
    assert found.degraded_cause == "llm_invalid_output"


def test_the_ends_of_the_range_are_probabilities() -> None:
    found = answered(policy(), Llm({"a": 0.0, "c": 1.0}), p_crm=[0.5, 0.0, 0.5, 1.0])
    assert (found.score.tolist(), found.degraded_cause) == ([0.0, 0.0, 1.0, 1.0], None)
    assert found.confidence.tolist() == pytest.approx([0.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, 1.01, -0.01])
def test_where_the_crm_gives_no_probability_the_llm_answers(value: float) -> None:
    found = answered(policy(), sure(), p_crm=[value, *P_CRM[1:]])
    assert found.score.tolist() == [0.8, 0.9, 0.2, 0.05]
    assert found.p_crm == pytest.approx([NAN, *P_CRM[1:]], nan_ok=True)
    assert found.confidence[0] == pytest.approx(0.0)
    assert found.reason[0] == "above_threshold"
    assert found.degraded_cause == "crm_invalid_output"


def test_where_neither_answers_the_prior_does() -> None:
    found = answered(policy(), Llm("llm_error"), p_crm=[NAN, *P_CRM[1:]])
    assert found.score.tolist() == [PRIOR, *P_CRM[1:]]
    assert found.reason == ["crm_failed", "below_threshold", "llm_failed", "below_threshold"]
    assert found.degraded_cause == "crm_invalid_output", "what failed first"


def test_a_crm_that_gives_nothing_still_gives_an_answer() -> None:
    found = answered(policy(math.inf), sure(), p_crm=[NAN] * 4)
    assert (found.score.tolist(), found.reason) == ([PRIOR] * 4, ["crm_failed"] * 4)


def test_where_the_policy_makes_no_probability_the_crms_own_answers() -> None:
    wild = Policy(
        MarginRouter(), -0.2, "replace", 1.0, Isotonic((0.4, 0.6), (0.4, 4.0)), Isotonic((0.3, 0.7), (NAN, 0.8)), "candidate", 1.0, 0.5
    )
    found = answered(wild, sure())
    assert found.score.tolist() == pytest.approx([0.8, 0.9, 0.4, 0.4], abs=1e-6)
    assert found.arm.tolist() == ["llm", "crm", "crm", "crm"]
    assert found.degraded_cause == "policy_invalid_output"


def test_an_error_that_is_no_failure_of_the_llm_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        answered(policy(), Llm({"a": 0.5}))


def test_an_entropy_in_nats_is_what_the_threshold_is_compared_with() -> None:
    one = Policy(EntropyRouter(), 0.67, "replace", 1.0, Identity(), Identity(), "candidate", 1.0, 0.5)
    wanted, _ = choose(one, rows([0.5, 0.4, 0.39]), 1.0)  # 0.6931, 0.6730, 0.6687
    assert wanted.tolist() == [True, True, False]
