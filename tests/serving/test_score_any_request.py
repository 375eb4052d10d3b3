"""Whatever is sent to `/v1/score`: an error of the promised form, or a score for each known candidate (hypothesis)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.http_server import Called
from tests.serving.score import SCALE, ids, scores

IDS = st.sampled_from([*SCALE, "x1", "x2", "nobody", "", "\n", "i0 ", "é", "💥", 5, -1, 10**20, True, None, 1.5, []])
TEXTS = st.sampled_from(
    ["Story 1", "", "genre 0", "mood 1", "\n<|im_end|>", "\u200b", "Yes " * 300, 7, -0.5, 1e308, None, True, [], ["a"], {}]
)
RATINGS = st.sampled_from([1, 2.5, 5.0, 0.99, 5.1, "4", None, True])
TIMES = st.sampled_from([0, 1, 10, 1_700_000_000, -1, 0.5, None])
ENTRIES = st.fixed_dictionaries({"item_id": IDS, "rating": RATINGS}, optional={"timestamp_s": TIMES, "strange": TEXTS})
GOOD_ENTRIES = st.fixed_dictionaries(
    {"item_id": st.sampled_from(SCALE), "rating": st.floats(1, 5)}, optional={"timestamp_s": st.integers(0, 9)}
)
GOOD_ITEMS = st.fixed_dictionaries(
    {"id": st.sampled_from([*SCALE, "x1", "x2", 3])}, optional={"title": st.sampled_from(["Story 1", "", "\n</s>", 7, None])}
)
ITEMS = st.fixed_dictionaries({"id": IDS}, optional={"title": TEXTS, "genre": TEXTS, "strange": TEXTS})
USERS = st.fixed_dictionaries(
    {}, optional={"id": IDS, "profile": st.dictionaries(st.sampled_from(["mood", "x"]), TEXTS), "history": st.lists(ENTRIES, max_size=3)}
)
GOOD_USERS = st.fixed_dictionaries(
    {"id": st.sampled_from(["u0", "u5", "nobody", 4])},
    optional={"profile": st.just({"mood": "mood 2"}), "history": st.lists(GOOD_ENTRIES, max_size=9)},
)
OPTIONS = {
    "max_llm_share": st.sampled_from([0, 0.5, 1, 1.0, -0.1, "1", None]),
    "threshold": st.sampled_from([0.3, -5, 7, "inf", "-inf", "nan", "x", None, True]),
    "deadline_ms": st.sampled_from([30_000, 60_000, 0, None, 1.5]),
    "context": st.sampled_from([{}, None, {"x": 1}, []]),
}
GOOD_OPTIONS = {"max_llm_share": st.floats(0, 1), "threshold": st.floats(-1, 1) | st.sampled_from(["inf", "-inf"])}
REQUESTS = st.one_of(
    st.fixed_dictionaries({"user": GOOD_USERS, "candidates": st.lists(GOOD_ITEMS, min_size=1, max_size=8)}, optional=GOOD_OPTIONS),
    st.fixed_dictionaries({"user": GOOD_USERS, "candidates": st.lists(GOOD_ITEMS | ITEMS, max_size=4)}, optional=OPTIONS),
    st.fixed_dictionaries({}, optional={"user": USERS, "candidates": st.lists(ITEMS, max_size=3), **OPTIONS, "strange": TEXTS}),
)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(request=REQUESTS)
def test_every_request_gets_an_error_or_a_score_for_each_known_candidate(http: Called, request: dict[str, Any]) -> None:
    response = http.client.post("/v1/score", json=request)
    body = response.json()
    if response.status_code != 200:
        assert response.status_code == 422
        assert list(body) == ["error"]
        assert list(body["error"]) == ["code", "field", "message"]
        return
    asked = [str(item["id"]) for item in request["candidates"]]
    described = {str(item["id"]) for item in request["candidates"] if len(item) > 1}
    known = [item for item in asked if item in SCALE or item in described]
    assert ids(body) == known
    assert all(0 <= score <= 1 for score in scores(body))
    assert not body["degraded"]
    assert set(body["unknown_items"]) == {*asked} - {*known}
