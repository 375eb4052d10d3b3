"""What `/v1/score` answers when the LLM fails, dawdles, or says what no probability is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tests.serving.http_server import Called
from tests.serving.score import SCALE, SECOND_S, arms, ask, scores


def fail(_: Any) -> Any:
    raise ValueError("no answer today")


ODD = {
    "an error": (fail, "llm_error"),
    "no numbers": (lambda p: np.full_like(p, np.nan), "llm_invalid_output"),
    "infinite numbers": (lambda p: np.full_like(p, -np.inf), "llm_invalid_output"),
    "numbers above 1": (lambda p: np.full_like(p, 1.5), "llm_invalid_output"),
    "numbers below 0": (lambda p: p - 2.0, "llm_invalid_output"),
    "too many numbers": (lambda p: np.r_[p, 0.5], "llm_invalid_output"),
    "too few numbers": (lambda p: p[1:], "llm_invalid_output"),
    "a table": (lambda p: p[:, None], "llm_invalid_output"),
    "ragged lists": (lambda p: [[0.5], [0.5, 0.5]], "llm_invalid_output"),
    "text": (lambda p: ["Yes"] * len(p), "llm_invalid_output"),
    "nothing": (lambda p: None, "llm_invalid_output"),
}


@pytest.mark.parametrize("case", ODD)
def test_where_the_llm_answers_nonsense_the_crm_answers_and_says_why(http: Called, case: str) -> None:
    http.llm.changes, cause = ODD[case]
    answer = ask(http, SCALE, threshold="-inf")
    assert (answer["degraded"], answer["degraded_cause"]) == (True, cause)
    assert set(arms(answer)) == {"crm"}
    assert scores(answer) == [result["p_crm"] for result in answer["results"]]
    assert {(result["p_llm"], result["reason"]) for result in answer["results"]} == {(None, "llm_failed")}


def test_what_the_llm_answers_well_counts_beside_what_it_does_not(http: Called) -> None:
    http.llm.changes = lambda p: np.where(np.arange(len(p)) == 1, np.nan, p)
    answer = ask(http, ["i0", "i1", "i2"], threshold="-inf")
    assert arms(answer) == ["llm", "crm", "llm"]
    assert answer["degraded_cause"] == "llm_invalid_output"


def test_where_the_llm_is_away_the_crm_answers(http: Called) -> None:
    http.llm.fails = True
    causes = [ask(http, SCALE, threshold="-inf")["degraded_cause"] for _ in range(5)]
    assert causes == ["llm_unavailable"] * 3 + ["circuit_open"] * 2
    assert not ask(http, SCALE, threshold="inf")["degraded"]  # it was not to be asked


def test_numbers_of_two_versions_are_never_mixed(http: Called) -> None:
    """As in the middle of a rollout: this process is new, the LLM's still an old one."""
    http.llm.version, current = "older", http.llm.version
    try:
        for _ in range(5):
            answer = ask(http, [{"id": "i1"}, {"id": "i2"}], threshold="-inf")
            assert (answer["degraded_cause"], answer["llm_scored"], arms(answer)) == ("llm_other_version", 0, ["crm", "crm"])
    finally:
        http.llm.version = current
    assert arms(ask(http, [{"id": "i1"}], threshold="-inf")) == ["llm"], "the circuit stayed closed"


def test_an_llm_that_never_answers_costs_the_deadline_and_no_more(http: Called) -> None:
    http.llm.delay_s = 3_600.0
    started_s = time.monotonic()
    answer = ask(http, SCALE, threshold="-inf", deadline_ms=1_500)
    assert answer["degraded_cause"] == "llm_timeout"
    assert answer["timings_ms"]["llm"] > 200  # it was waited for
    assert time.monotonic() - started_s < SECOND_S
    assert ask(http, SCALE, threshold="-inf", deadline_ms=1)["degraded_cause"] in ("deadline", "llm_timeout")
