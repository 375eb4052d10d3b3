"""What `/v1/events` promises: an event is kept once, and the user's next request sees it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.serving.events.servers import RedisServer
from tests.serving.http_server import Called, called
from tests.serving.test_bad_input import MARK, refused


def event(event_id: str = "e1", **changes: Any) -> dict[str, Any]:
    return {"event_id": event_id, "user_id": "u0", "item_id": "i5", "rating": 5.0, "timestamp_s": 1_700_000_000, **changes}


def score(http: Called, user: str) -> list[float]:
    candidates = [{"id": f"i{row}"} for row in range(6)]
    answer = http.post("/v1/score", {"user": {"id": user}, "candidates": candidates, "threshold": "-inf"})
    return [result["score"] for result in answer["results"]]


def test_the_next_request_sees_an_event(fresh: Called) -> None:
    before = score(fresh, "u0")
    old = fresh.llm.asked[-1]
    assert fresh.post("/v1/events", event()) == {"event_id": "e1", "stored": True}
    after = score(fresh, "u0")
    assert fresh.llm.asked[-1].history == (*old.history, ("i5", 5.0))[-fresh.service.store.history_length :]
    assert fresh.llm.asked[-1].earlier_count == old.earlier_count + 1
    assert before != after
    shown = fresh.client.get("/v1/users/u0").json()
    assert shown["history"][-1] == {"item_id": "i5", "title": "Story 5", "rating": 5.0}
    assert shown["earlier_count"] == old.earlier_count + 1


def test_other_users_do_not_see_it(fresh: Called) -> None:
    before = score(fresh, "u1")
    fresh.post("/v1/events", event())
    assert score(fresh, "u1") == before


def test_a_new_user_is_known_from_the_first_event_on(fresh: Called) -> None:
    body = {"user": {"id": "new"}, "candidates": [{"id": "i0"}]}
    assert fresh.client.get("/v1/users/new").status_code == 404
    assert fresh.post("/v1/score", body)["unknown_user"]
    fresh.post("/v1/events", event(user_id="new"))
    assert not fresh.post("/v1/score", body)["unknown_user"]
    assert fresh.client.get("/v1/users/new").json() == {
        "id": "new",
        "profile": "",
        "earlier_count": 1,
        "history": [{"item_id": "i5", "title": "Story 5", "rating": 5.0}],
    }


def test_ids_with_a_slash_can_be_looked_up(fresh: Called) -> None:
    fresh.post("/v1/events", event(user_id="a/b c?"))
    assert fresh.client.get("/v1/users/a%2Fb%20c%3F").json()["id"] == "a/b c?"


def test_an_event_sent_again_is_stored_once(fresh: Called) -> None:
    answers = [fresh.post("/v1/events", event())["stored"] for _ in range(3)]
    assert answers == [True, False, False]
    assert fresh.service.events.latest("u0", 10).count == 1


def test_another_event_under_the_same_id_is_a_conflict(fresh: Called) -> None:
    fresh.post("/v1/events", event(MARK))
    refused(fresh.client.post("/v1/events", json=event(MARK, rating=1)), 409, "event_id")


def test_an_event_of_an_unknown_item_is_kept_and_passed_over(fresh: Called) -> None:
    before = score(fresh, "u0")
    fresh.post("/v1/events", event(item_id="x"))
    assert len(score(fresh, "u0")) == len(before)
    assert fresh.client.get("/v1/users/u0").json()["history"][-1] == {"item_id": "x", "title": "x", "rating": 5.0}


def test_the_scale_of_the_data_set_holds_with_its_ends(fresh: Called) -> None:
    for number, rating in enumerate((1, 1.0, 3.25, 5)):
        assert fresh.post("/v1/events", event(f"e{number}", rating=rating))["stored"]


def test_clocks_may_run_ahead_by_a_day_and_no_more(fresh: Called) -> None:
    now_s = int(time.time())
    assert fresh.post("/v1/events", event(timestamp_s=now_s + 80_000))["stored"]
    refused(fresh.client.post("/v1/events", json=event("e2", timestamp_s=now_s + 90_000)), 422, "timestamp_s")


def test_an_endpoint_that_ends_leaves_its_events_in_one_file(ensemble: Path, tmp_path: Path) -> None:
    with called(ensemble, tmp_path / "events.db") as endpoint:
        endpoint.post("/v1/events", event())
    assert [path.name for path in tmp_path.iterdir()] == ["events.db"]


def test_without_its_store_an_event_is_not_taken_and_the_prepared_histories_are_read(fresh: Called) -> None:
    before = score(fresh, "u0")
    fresh.service.events.close()
    response = fresh.client.post("/v1/events", json=event())
    assert refused(response, 503, None) == "the store of events is away"
    assert response.headers["retry-after"] == "1"
    refused(fresh.client.get("/v1/users/u0"), 503, None)
    body = {"user": {"id": "u0"}, "threshold": "-inf"}
    candidates = {"candidates": [{"id": f"i{row}"} for row in range(6)]}
    for answer in (fresh.post("/v1/score", body | candidates), fresh.post("/v1/rank", body)):
        assert (answer["degraded"], answer["degraded_cause"], answer["unknown_user"]) == (True, "events_unavailable", False)
        assert answer["llm_scored"] > 0, "the LLM is well"
    assert score(fresh, "u0") == before
    assert fresh.post("/v1/score", body | candidates | {"user": {"id": "nobody"}})["unknown_user"]
    assert not fresh.post("/v1/score", body | candidates | {"user": {"history": []}})["degraded"], "nothing was to be read"


def test_a_store_that_is_away_at_the_start_is_used_once_it_is_there(ensemble: Path, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis").start()
    redis.kill()
    try:
        with called(ensemble, redis.uri, deadline_ms=30_000) as endpoint:
            body = {"user": {"id": "u0"}, "candidates": [{"id": "i0"}]}
            assert endpoint.post("/v1/score", body)["degraded_cause"] == "events_unavailable"
            refused(endpoint.client.post("/v1/events", json=event()), 503, None)
            redis.start()
            assert endpoint.post("/v1/events", event())["stored"]
            assert not endpoint.post("/v1/score", body)["degraded"]
            assert endpoint.client.get("/v1/users/u0").json()["history"][-1]["item_id"] == "i5"
    finally:
        redis.kill()
