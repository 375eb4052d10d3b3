"""What `/v1/score` answers: known candidates in the order asked for, whoever asks and however the LLM is."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from components.features.tables import read_samples
from components.joint.ensemble import Ensemble
from tests.serving.http_server import Called
from tests.serving.score import SCALE, SECOND_S, arms, ask, ids, scores


@pytest.fixture(scope="module")
def offline(ensemble: Path) -> Ensemble:
    return Ensemble.load(str(ensemble))


def test_scores_are_those_of_the_offline_ensemble(http: Called, offline: Ensemble, ensemble: Path) -> None:
    items = offline.store.items["item_id"].to_numpy(object)
    samples = read_samples(str(ensemble.parent / "data" / "tables" / "valid")).to_pandas()
    routed: list[str] = []
    for number, row in enumerate(samples.itertuples()):
        history, ratings = items[row.history_rows].tolist(), row.history_ratings.tolist()
        frame = pd.DataFrame(
            [
                (row.user_id, item, row.timestamp_s, history, ratings, len(history))
                for item in (row.item_id, f"i{(row.item_row + 7) % 24}", f"i{(number + row.item_row) % 24}")
            ],
            columns=["user_id", "item_id", "timestamp_s", "history_items", "history_ratings", "earlier_count"],  # pyright: ignore[reportArgumentType]
        ).drop_duplicates("item_id")
        expected = offline.predict(frame)
        given_history = [{"item_id": item, "rating": rating} for item, rating in zip(history, ratings, strict=True)]
        answer = ask(http, frame["item_id"].tolist(), {"id": row.user_id, "history": given_history})
        assert_allclose(scores(answer), expected["p_routed"], atol=1e-6)
        assert_allclose([result["p_crm"] for result in answer["results"]], expected["p_crm"], atol=1e-6)
        p_llm = [math.nan if result["p_llm"] is None else result["p_llm"] for result in answer["results"]]
        assert_allclose(p_llm, expected["p_llm"], atol=1e-6)
        assert arms(answer) == expected["arm"].tolist()
        assert not answer["degraded"]
        routed += arms(answer)
    assert {"crm", "llm"} == set(routed)


def test_an_answer_says_all_that_it_promises(http: Called) -> None:
    answer = ask(http, ["i0", "i1"])
    assert list(answer) == [
        "results",
        "llm_scored",
        "unknown_items",
        "unknown_user",
        "degraded",
        "degraded_cause",
        "model_version",
        "policy_version",
        "timings_ms",
    ]
    assert list(answer["results"][0]) == ["id", "score", "arm", "p_crm", "p_llm", "confidence", "reason"]
    assert (answer["unknown_items"], answer["unknown_user"], answer["degraded"], answer["degraded_cause"]) == ([], False, False, None)
    assert answer["model_version"] == http.service.model_version
    assert set(answer["timings_ms"]) == {"total", "crm", "llm"}


def test_the_order_is_kept_and_an_item_asked_for_twice_is_scored_once(http: Called) -> None:
    items = ["i5", "i1", "i5", "i9", "i1", "i0"]
    answer = ask(http, items, threshold="-inf")
    assert ids(answer) == items
    assert [candidate.item_id for candidate in http.llm.asked[-1].candidates] == ["i5", "i1", "i9", "i0"]
    once = dict(zip(ids(answer), scores(answer), strict=True))
    assert scores(answer) == [once[item] for item in items]
    assert scores(ask(http, sorted(once), threshold="-inf")) == pytest.approx([once[item] for item in sorted(once)], abs=1e-6)


def test_unknown_items_are_listed_and_not_scored(http: Called) -> None:
    answer = ask(http, ["x1", "i0", "x2", "x1", "i1"])
    assert ids(answer) == ["i0", "i1"]
    assert answer["unknown_items"] == ["x1", "x2"]


def test_whole_numbers_are_ids_too(http: Called) -> None:
    answer = http.post("/v1/score", {"user": {"id": 7}, "candidates": [{"id": 3}, {"id": "i0"}]})
    assert (answer["unknown_user"], answer["unknown_items"]) == (True, ["3"])


def test_an_unknown_user_is_marked_and_gets_what_a_nameless_one_gets(http: Called) -> None:
    answer = ask(http, SCALE, "nobody")
    assert answer["unknown_user"]
    nameless = ask(http, SCALE, {"history": []})
    assert not nameless["unknown_user"]
    assert scores(answer) == scores(nameless)
    assert scores(answer) != scores(ask(http, SCALE, "u0"))


@pytest.mark.parametrize("more", [{"profile": {"mood": "mood 1"}}, {"history": [{"item_id": "i3", "rating": 5.0}]}])
def test_a_stranger_who_is_described_is_not_unknown(http: Called, more: dict[str, Any]) -> None:
    assert not ask(http, ["i0"], {"id": "nobody", **more})["unknown_user"]
    assert ask(http, ["i0"], {"id": "nobody", **dict.fromkeys(more, [] if "history" in more else {})})["unknown_user"]


def test_a_history_without_a_name_is_read(http: Called) -> None:
    history = [{"item_id": "i3", "rating": 5.0}, {"item_id": "i4", "rating": 2.0}]
    answer = ask(http, SCALE, {"history": history}, threshold="-inf")
    assert http.llm.asked[-1].history == (("i3", 5.0), ("i4", 2.0))
    assert scores(answer) != scores(ask(http, SCALE, {"history": []}, threshold="-inf"))


def test_a_history_is_ordered_by_its_times(http: Called) -> None:
    history = [{"item_id": f"i{row}", "rating": 2.0 + row % 4, "timestamp_s": 100 + row} for row in range(12)]
    expected = scores(ask(http, SCALE, {"id": "u1", "history": history}, threshold="-inf"))
    random.Random(3).shuffle(history)
    assert scores(ask(http, SCALE, {"id": "u1", "history": history}, threshold="-inf")) == expected
    assert [item for item, _ in http.llm.asked[-1].history] == [f"i{row}" for row in range(6, 12)]
    assert http.llm.asked[-1].earlier_count == 12


def test_a_history_without_every_time_stands_as_it_came(http: Called) -> None:
    history = [
        {"item_id": "i2", "rating": 4, "timestamp_s": 9},
        {"item_id": "i1", "rating": 4},
        {"item_id": "i0", "rating": 3, "timestamp_s": 1},
    ]
    ask(http, ["i5"], {"history": history}, threshold="-inf")
    assert [item for item, _ in http.llm.asked[-1].history] == ["i2", "i1", "i0"]


def test_items_that_nobody_knows_are_passed_over_in_a_history(http: Called) -> None:
    known = [{"item_id": "i2", "rating": 4}, {"item_id": "i7", "rating": 2}]
    strange = [known[0], {"item_id": "x", "rating": 5}, known[1]]
    plain, other = (ask(http, SCALE, {"id": "u1", "history": history}, threshold="inf") for history in (known, strange))
    assert len(scores(other)) == len(SCALE)
    assert np.isfinite(scores(other)).all()
    assert ids(plain) == ids(other)


def test_a_profile_takes_the_place_of_the_known_one(http: Called) -> None:
    history = [{"item_id": "i2", "rating": 4}]
    moods = [scores(ask(http, SCALE, {"id": "u0", "profile": {"mood": f"mood {kind}"}, "history": history})) for kind in range(3)]
    assert moods[0] == scores(ask(http, SCALE, {"id": "u0", "history": history}))  # what u0 is known with
    assert moods[0] != moods[1] != moods[2]


def test_a_described_item_is_scored_and_another_description_changes_only_it(http: Called) -> None:
    answers = [
        ask(http, ["i0", {"id": "new", "title": "A new story", "genre": genre}, {"id": "i3", "genre": genre}], threshold="-inf")
        for genre in ("genre 0", "genre 1")
    ]
    assert [ids(answer) for answer in answers] == [["i0", "new", "i3"]] * 2
    assert [answer["unknown_items"] for answer in answers] == [[], []]
    first, second = map(scores, answers)
    assert first[0] == pytest.approx(second[0], abs=1e-6)
    assert abs(first[1] - second[1]) > 1e-6
    assert abs(first[2] - second[2]) > 1e-6


@pytest.mark.parametrize("item", ["i3", "new"])
def test_where_an_item_is_named_and_described_the_description_counts(http: Called, item: str) -> None:
    described = {"id": item, "title": "Another story", "genre": "genre 0"}
    (expected,) = scores(ask(http, [described], threshold="-inf"))
    for items in ([item, described], [described, item]):
        answer = ask(http, items, threshold="-inf")
        assert (ids(answer), answer["unknown_items"]) == ([item, item], [])
        assert scores(answer) == pytest.approx([expected, expected], abs=1e-6)


def test_a_description_that_says_what_is_known_changes_nothing(http: Called) -> None:
    described = {"id": "i4", "title": "Story 4", "genre": "genre 1"}
    assert scores(ask(http, ["i3", described], threshold="-inf")) == pytest.approx(
        scores(ask(http, ["i3", "i4"], threshold="-inf")), abs=1e-6
    )


def test_the_threshold_of_a_request_takes_the_place_of_the_policys(http: Called) -> None:
    never, always = ask(http, SCALE, threshold="inf"), ask(http, SCALE, threshold="-inf")
    assert set(arms(never)) == {"crm"}
    assert set(arms(always)) == {"llm"}
    assert scores(never) == [result["p_crm"] for result in never["results"]]
    assert {result["reason"] for result in never["results"]} == {"below_threshold"}
    assert {result["reason"] for result in always["results"]} == {"above_threshold"}
    estimate = worth(http, never)
    between = float(np.median(estimate)) + 1e-9
    assert arms(ask(http, SCALE, threshold=between)) == np.where(estimate > between, "llm", "crm").tolist()
    assert arms(ask(http, SCALE)) == np.where(estimate > http.service.policy.threshold, "llm", "crm").tolist()


def worth(http: Called, answer: dict[str, Any]) -> np.ndarray:
    """What the policy's own router says of each candidate."""
    return np.asarray(http.service.policy.router.estimate({"p_crm": np.array([result["p_crm"] for result in answer["results"]])}))


@pytest.mark.parametrize("share", [0.0, 0.04, 0.3, 0.5, 0.999, 1.0])
def test_the_share_is_rounded_down_and_goes_to_the_worthiest(http: Called, share: float) -> None:
    answer = ask(http, SCALE, "u2", threshold="-inf", max_llm_share=share)
    room = math.floor(share * len(SCALE))
    best = np.argsort(-worth(http, answer), kind="stable")[:room]
    assert [row for row, arm in enumerate(arms(answer)) if arm == "llm"] == sorted(best)
    assert [result["reason"] for result in answer["results"]].count("over_budget") == len(SCALE) - room
    assert not answer["degraded"]


def test_a_share_adds_nobody_whom_the_policy_does_not_want(http: Called) -> None:
    free = ask(http, SCALE)
    assert 0 < arms(free).count("llm") < len(SCALE)
    assert arms(ask(http, SCALE, max_llm_share=1.0)) == arms(free)
    assert set(arms(ask(http, SCALE, max_llm_share=0.0))) == {"crm"}


def test_a_request_near_the_limit_is_answered_in_time(http: Called) -> None:
    text = "A long story " * 130
    items = [{"id": f"new {row}", "title": f"{row} {text}", "genre": f"genre {row % 3}"} for row in range(500)]
    started_s = time.monotonic()
    answer = ask(http, items, threshold="inf")
    assert len(answer["results"]) == 500
    assert time.monotonic() - started_s < SECOND_S
