"""What other thresholds give, on six rows, by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.routing import curve
from components.routing.calibration import Identity, Platt
from components.routing.curve import threshold_curve
from components.routing.policy import Policy, crm_only
from components.routing.router import MarginRouter

# By doubt of the CRM: rows 1, 2, 3, then 0, 4, 5. The CRM has a click at 0.4 below a row without one at 0.45.
ROWS = pd.DataFrame(
    {
        "user_id": ["ann", "ann", "bob", "bob", "bob", "ann"],
        "timestamp_s": [1, 1, 1, 1, 2, 1],
        "label": [1, 0, 1, 0, 0, 1],
        "p_crm": [0.8, 0.45, 0.4, 0.3, 0.1, 0.95],
        "p_llm": [0.9, 0.2, 0.7, 0.6, 0.3, 0.05],
    }
).assign(item_popularity=1, user_popularity=1, earlier_count=1)


def policy(threshold: float = math.inf, unit: Any = "candidate") -> Policy:
    return Policy(MarginRouter(), threshold, "replace", 1.0, Identity(), Identity(), unit, 1.0, 0.5)


def mean_loss(*right: float) -> float:
    """Return the mean loss of the probabilities given to what happened."""
    return -sum(math.log(p) for p in right) / len(right)


@pytest.fixture(autouse=True)
def six_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "STEPS", 6)


def test_each_step_asks_for_one_row_more() -> None:
    points = threshold_curve(policy(), ROWS)
    assert [point["llm_share"] for point in points] == pytest.approx([step / 6 for step in range(7)])
    assert points[0]["threshold"] == "inf"
    assert [point["threshold"] for point in points[1:-1]] == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.45])
    assert points[-1]["threshold"] == "-inf"


def test_quality_at_each_step_is_as_worked_out_by_hand() -> None:
    points = threshold_curve(policy(), ROWS)
    # Of the nine pairs of a click and none, the CRM has 0.4 below 0.45; the LLM mends that by its first answer, 0.2 for 0.45.
    # Its answer to the last row, a click that it gives 0.05, loses against 0.2, 0.6 and 0.3.
    assert [point["auc"] for point in points] == pytest.approx([8 / 9, 1, 1, 1, 1, 1, 6 / 9])
    assert points[0]["logloss"] == pytest.approx(mean_loss(0.8, 0.55, 0.4, 0.7, 0.9, 0.95))
    assert points[3]["logloss"] == pytest.approx(mean_loss(0.8, 0.8, 0.7, 0.4, 0.9, 0.95))
    assert points[6]["logloss"] == pytest.approx(mean_loss(0.9, 0.8, 0.7, 0.4, 0.7, 0.05))


def test_a_threshold_of_the_curve_gives_its_point_when_it_is_served() -> None:
    for point in threshold_curve(policy(), ROWS):
        assert policy(float(point["threshold"])).decide(ROWS).llm_share == point["llm_share"]


def test_rows_that_tie_are_asked_together_and_appear_once() -> None:
    points = threshold_curve(policy(), ROWS.assign(p_crm=[0.5, 0.5, 0.5, 0.9, 0.9, 0.9]))
    # Room for one or two of three that tie is room for none.
    assert [point["llm_share"] for point in points] == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert [point["threshold"] for point in points] == ["inf", 0.0, -0.4, "-inf"]


def test_the_policys_own_threshold_is_a_point_among_the_steps() -> None:
    points = threshold_curve(policy(-0.25), ROWS.drop(index=[4, 5]))
    # Rows 1, 2 and 3 lie above -0.25; row 3 lies at -0.2, the step for half of four rows.
    assert [(point["threshold"], point["llm_share"]) for point in points] == [
        ("inf", 0.0),
        (pytest.approx(-0.1), 0.25),
        (pytest.approx(-0.2), 0.5),
        (-0.25, 0.75),
        (pytest.approx(-0.3), 0.75),
        ("-inf", 1.0),
    ]
    assert threshold_curve(policy(-math.inf), ROWS) == threshold_curve(policy(math.inf), ROWS)


def test_requests_are_asked_whole() -> None:
    points = threshold_curve(policy(unit="request"), ROWS)
    # Ann at 1 s: -(0.3 + 0.05 + 0.45) / 3, three rows; Bob at 1 s: -0.15, two rows; Bob at 2 s: -0.4, one row.
    assert [point["llm_share"] for point in points] == pytest.approx([0.0, 0.0, 2 / 6, 5 / 6, 1.0])
    assert [point["threshold"] for point in points] == ["inf", *map(pytest.approx, (-0.15, -0.8 / 3, -0.4)), "-inf"]


def test_the_policys_own_merge_and_calibrations_answer() -> None:
    mixing = Policy(MarginRouter(), 0.0, "mix", 0.5, Platt(2.0, 0.0), Identity(), "candidate", 1.0, 0.5)
    first, *_, last = threshold_curve(mixing, ROWS)
    squared = [p**2 / (p**2 + (1 - p) ** 2) for p in ROWS["p_crm"]]
    chance = [1 - p if label == 0 else p for p, label in zip(squared, ROWS["label"], strict=True)]
    assert first["logloss"] == pytest.approx(mean_loss(*chance))
    assert last["llm_share"] == 1.0
    odds = [math.sqrt(p / (1 - p) * q / (1 - q)) for p, q in zip(squared, ROWS["p_llm"], strict=True)]
    mixed = [odd / (1 + odd) for odd in odds]
    chance = [1 - p if label == 0 else p for p, label in zip(mixed, ROWS["label"], strict=True)]
    assert last["logloss"] == pytest.approx(mean_loss(*chance))


def test_a_policy_that_never_asks_still_shows_what_asking_would_give() -> None:
    points = threshold_curve(crm_only(), ROWS)
    assert [point["llm_share"] for point in points] == pytest.approx([step / 6 for step in range(7)])
    assert points[0] == {"threshold": "inf", "llm_share": 0.0, "auc": pytest.approx(8 / 9), "logloss": points[0]["logloss"]}
    assert points[-1]["threshold"] == "-inf"


def test_rows_without_an_llm_answer_stay_with_the_crm() -> None:
    points = threshold_curve(policy(), ROWS.assign(p_llm=np.nan))
    assert {point["llm_share"] for point in points} == {0.0}
    assert [point["auc"] for point in points] == pytest.approx([8 / 9] * 7)


def test_a_curve_is_json_and_steps_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rows = pd.concat([ROWS] * 20, ignore_index=True)
    points = threshold_curve(policy(), rows.assign(p_crm=np.linspace(0.01, 0.5, 120)))
    assert json.loads(json.dumps(points, allow_nan=False)) == points
    assert [point["llm_share"] for point in points] == pytest.approx([step / 20 for step in range(21)])
