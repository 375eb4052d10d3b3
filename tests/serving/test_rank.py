"""What `/v1/rank` answers: the best items of the whole catalogue, the router at work on their head."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from components.features.visit import Resolved
from components.joint.arms import Scores
from tests.serving.http_server import Called

SCALE = {f"i{row}" for row in range(24)}


def rank(http: Called, user: Any = "u0", **more: Any) -> dict[str, Any]:
    return http.post("/v1/rank", {"user": user if isinstance(user, dict) else {"id": user}, **more})


def ids(answer: dict[str, Any]) -> list[str]:
    return [result["id"] for result in answer["results"]]


def scores(answer: dict[str, Any]) -> list[float]:
    return [result["score"] for result in answer["results"]]


@pytest.mark.parametrize("threshold", ["inf", "-inf", None])
@pytest.mark.parametrize("k", [1, 10, 24])
def test_the_best_items_come_first_and_each_once(http: Called, threshold: str | None, k: int) -> None:
    answer = rank(http, k=k, threshold=threshold, max_llm_share=1.0)
    assert len(set(ids(answer))) == len(ids(answer)) == k
    assert scores(answer) == sorted(scores(answer), reverse=True)
    assert (answer["unknown_items"], answer["degraded"]) == ([], False)


@pytest.mark.parametrize("threshold", ["inf", "-inf", None])
def test_the_whole_catalogue_ranks_as_it_scores(http: Called, threshold: str | None) -> None:
    answer = rank(http, "u3", k=500, threshold=threshold, max_llm_share=1.0)
    assert set(ids(answer)) == SCALE
    candidates = [{"id": item} for item in ids(answer)]
    scored = http.post("/v1/score", {"user": {"id": "u3"}, "candidates": candidates, "threshold": threshold})
    assert scores(answer) == pytest.approx(scores(scored), abs=1e-6)


def test_ten_items_come_where_no_number_is_asked_for(http: Called) -> None:
    assert len(rank(http)["results"]) == 10


def test_items_of_the_history_are_left_out_where_asked_for(http: Called) -> None:
    history = [{"item_id": f"i{row}", "rating": 4.0} for row in range(4)]
    answer = rank(http, {"history": history}, k=500, exclude_seen=True)
    assert set(ids(answer)) == SCALE - {f"i{row}" for row in range(4)}
    assert set(ids(rank(http, {"history": history}, k=500))) == SCALE


def test_a_stored_history_is_left_out_too(http: Called) -> None:
    seen = {entry["item_id"] for entry in http.client.get("/v1/users/u5").json()["history"]}
    assert seen
    assert not seen & set(ids(rank(http, "u5", k=500, exclude_seen=True)))


def test_the_policys_share_holds_where_the_request_names_none(http: Called) -> None:
    assert http.service.policy.max_llm_share == 0.5
    capped, free = rank(http, k=24, threshold="-inf"), rank(http, k=24, threshold="-inf", max_llm_share=1.0)
    counts = [[result["arm"] for result in answer["results"]].count("llm") for answer in (capped, free)]
    assert counts == [12, 24]


def test_where_whole_requests_are_routed_a_list_may_be_the_llms(http: Called) -> None:
    """All or nothing: a share below 1 within one request would be nothing."""
    http.service.live.take({"policy": {**http.service.policy.to_json(), "unit": "request", "max_llm_share": 0.3}})
    try:
        answers = {threshold: rank(http, k=24, threshold=threshold) for threshold in ("-inf", "inf")}
        assert [answers[threshold]["llm_scored"] for threshold in ("-inf", "inf")] == [24, 0]
        assert rank(http, k=24, threshold="-inf", max_llm_share=0.3)["llm_scored"] == 0, "what a request says holds"
    finally:
        http.service.live.take({})


def test_the_catalogue_is_scored_once_and_that_is_the_time_of_the_crm(http: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    score, counts = http.service.arm.score, []

    def slow(visit: Resolved) -> Scores:
        counts.append(len(visit.item_rows))
        time.sleep(0.05)
        return score(visit)

    monkeypatch.setattr(http.service.arm, "score", slow)
    answer = rank(http, threshold="inf")
    assert counts == [24]
    assert 50 <= answer["timings_ms"]["crm"] <= answer["timings_ms"]["total"]


def test_an_unknown_user_gets_a_list_that_is_marked(http: Called) -> None:
    answer = rank(http, "nobody")
    assert answer["unknown_user"]
    assert ids(answer) == ids(rank(http, {"history": []}))
    assert np.isfinite(scores(answer)).all()


def test_where_the_llm_is_away_the_crm_ranks(http: Called) -> None:
    expected = rank(http, threshold="inf")
    http.llm.fails = True
    answer = rank(http, threshold="-inf")
    assert (answer["degraded"], answer["degraded_cause"]) == (True, "llm_unavailable")
    assert ids(answer) == ids(expected)


def test_where_everything_was_seen_the_list_is_empty(http: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.service.store, "history_length", 24)  # as with a tiny catalogue
    history = [{"item_id": item, "rating": 4.0} for item in SCALE]
    assert rank(http, {"history": history}, exclude_seen=True)["results"] == []
