"""What `/readyz` says: of this process, and of what it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.serving.http_server import Called
from tests.serving.score import ask


def ready(http: Called) -> dict[str, Any]:
    response = http.client.get("/readyz")
    assert response.status_code == 200
    return response.json()


def test_the_llm_is_unknown_until_it_has_answered(fresh: Called) -> None:
    assert ready(fresh) == {
        "status": "ready",
        "crm": "ready",
        "llm": "unknown",
        "model_version": "seed-0",
        "policy_version": fresh.service.policy_version,
        "refused": None,
    }
    ask(fresh, ["i0"], threshold="-inf")
    assert ready(fresh)["llm"] == "ready"
    fresh.llm.fails = True
    for _ in range(3):
        ask(fresh, ["i0"], threshold="-inf")
    assert ready(fresh)["llm"] == "unavailable"


def test_a_process_that_refused_a_policy_says_so_beside_the_one_in_force(http: Called) -> None:
    """One that was started since has the model's own in force: their versions differ."""
    http.service.live.take({"threshold": 0.1})
    http.service.live.take({"treshold": 1})
    try:
        found = ready(http)
        assert (found["policy_version"], found["refused"]) == (
            http.service.policy_version,
            "user_config: expected policy and threshold, got treshold",
        )
    finally:
        http.service.live.take({})


@pytest.mark.parametrize("p_crm", [np.nan, -0.1, 1.1])
def test_a_crm_that_gives_no_probability_is_not_ready(http: Called, monkeypatch: pytest.MonkeyPatch, p_crm: float) -> None:
    score = http.service.arm.score
    monkeypatch.setattr(http.service.arm, "score", lambda visit: {**score(visit), "p_crm": np.full(len(visit.item_rows), p_crm)})
    assert http.client.get("/readyz").status_code == 503
    with pytest.raises(ArithmeticError, match="expected a probability of the CRM"):
        http.service.probe()
