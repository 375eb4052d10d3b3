"""Which policy is in force: a wrong one never takes a working process down."""

from __future__ import annotations

import math
from typing import Any

import pytest

from components.errors import ArtifactError
from components.routing.calibration import Identity
from serving.live_policy import LivePolicy
from tests.serving.ensembles import POLICY
from tests.serving.http_server import Called

SHIPPED = POLICY.to_json()


def isotonic(knots: list[float], values: list[float]) -> dict[str, Any]:
    return {"name": "isotonic", "knots": knots, "values": values}


def live() -> tuple[LivePolicy, list[bool]]:
    refused: list[bool] = []
    return LivePolicy(SHIPPED, refused.append), refused


def test_the_models_own_policy_is_in_force_until_another_comes() -> None:
    one, _ = live()
    assert (one.policy, one.refusal) == (POLICY, None)
    one.take({"threshold": 0.1})
    assert one.policy.threshold == 0.1
    one.take({})
    assert one.policy == POLICY


@pytest.mark.parametrize(("given", "threshold"), [(0, 0.0), (0.25, 0.25), (-1, -1.0), ("inf", math.inf), ("-inf", -math.inf)])
def test_a_threshold_is_a_number_or_infinite(given: Any, threshold: float) -> None:
    one, refused = live()
    one.take({"threshold": given})
    assert (one.policy.threshold, one.refusal, refused) == (threshold, None, [False])


def test_a_policy_and_a_threshold_go_together() -> None:
    one, _ = live()
    one.take({"policy": {**SHIPPED, "unit": "request"}, "threshold": 0.3})
    assert (one.policy.unit, one.policy.threshold) == ("request", 0.3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"treshold": 1}, "expected policy and threshold, got treshold"),
        ({"threshold": "abc"}, 'expected a number, "inf" or "-inf" for threshold, got \'abc\''),
        ({"threshold": True}, "expected a number"),
        ({"threshold": math.nan}, "expected a threshold, got nan"),
        ({"threshold": [1]}, "expected a number"),
        ({"policy": {}}, "expected the keys"),
        ({"policy": 5}, ""),
        ({"policy": {**SHIPPED, "router": 5}}, "router: could not read 5"),
        ({"policy": {**SHIPPED, "threshold": "much"}}, "a number could not be read"),
        ({"policy": {**SHIPPED, "crm_calibration": {"name": "isotonik"}}}, ""),
        ({"policy": {**SHIPPED, "crm_calibration": isotonic([], [])}}, "a value for each knot and at least one"),
        ({"policy": {**SHIPPED, "crm_calibration": isotonic([0.1, 0.9], [0, 5])}}, "expected values in [0, 1]"),
        ({"policy": {**SHIPPED, "llm_calibration": {"name": "temperature", "temperature": 0}}}, "expected a number above 0, got 0"),
        (
            {"policy": {**SHIPPED, "crm_calibration": {"name": "platt", "slope": math.nan, "offset": 0}}},
            "expected a finite number, got nan",
        ),
        ({"policy": {**SHIPPED, "max_llm_share": 7}}, "expected weight and shares"),
        ({"policy": {**SHIPPED, "merge": ["mix"]}}, "expected merge of"),
        ("threshold", ""),
    ],
    ids=str,
)
def test_a_wrong_one_is_refused_and_the_one_before_stays(config: Any, words: str) -> None:
    one, refused = live()
    one.take({"threshold": 0.2})
    before = (one.policy, one.version)
    one.take(config)
    assert (one.policy, one.version) == before
    assert one.refusal is not None
    assert words in one.refusal
    one.take({"threshold": 0.2})
    assert (one.refusal, refused) == (None, [False, True, False])


def test_the_policy_of_a_damaged_model_is_no_policy() -> None:
    with pytest.raises(ArtifactError, match="expected the keys"):
        LivePolicy({}, print)


def test_a_policy_whose_answers_are_no_probabilities_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reading it overlooked: it is tried before it is in force."""
    one, _ = live()
    monkeypatch.setattr(Identity, "apply", lambda self, p: 3 * p)
    one.take({})
    assert (one.policy, one.refusal) == (POLICY, "user_config: policy: expected answers in [0, 1], got 0 to 3")


def test_a_refusal_is_shown_beside_the_policy_in_force(http: Called) -> None:
    before = http.client.get("/v1/policy").json()
    assert before["refused"] is None
    http.service.live.take({"treshold": 1})
    try:
        assert http.client.get("/v1/policy").json() == {**before, "refused": "user_config: expected policy and threshold, got treshold"}
        assert http.client.get("/readyz").status_code == 200
    finally:
        http.service.live.take({})
