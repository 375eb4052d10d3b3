from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from components import metrics
from components.metrics import Interval
from components.routing.fit import Spec
from tests.components.routing.score_tables import score_table
from tune.choice import Candidate, as_table, best, crm_alone, honest_gain, leading, pareto, sentence, sweep
from tune.objective import Score, evaluate, judge, prepare

SPEC = Spec("gain", 0.2, "replace", 1.0, "platt", "platt")


def _candidate(auc: tuple[float, ...], logloss: float = 0.6, share: float = 0.1, spec: Spec | None = SPEC) -> Candidate:
    folds = len(auc)
    return Candidate(spec, Score((10,) * folds, auc, (logloss,) * folds, (share,) * folds))


def test_the_best_is_the_highest_auc_then_the_lowest_logloss_then_the_smallest_share() -> None:
    candidates = [
        _candidate((0.7, 0.7), 0.60, 0.3),
        _candidate((0.70004, 0.70004), 0.61, 0.1),  # the same AUC to four places
        _candidate((0.7, 0.7), 0.60, 0.2),
        _candidate((0.69, 0.69), 0.10, 0.0),
    ]
    assert best(candidates) is candidates[2]


def test_the_best_for_a_fold_is_chosen_on_the_others() -> None:
    first, second = _candidate((0.9, 0.5, 0.5)), _candidate((0.6, 0.6, 0.6))
    assert best([first, second]) is first
    assert best([first, second], without=0) is second


def test_a_candidate_without_an_auc_is_never_the_best() -> None:
    nan, poor = _candidate((float("nan"),)), _candidate((0.4,))
    assert best([nan, poor]) is poor


def test_leading_takes_the_best_of_each_kind_once() -> None:
    entropy = replace(SPEC, router="entropy")
    candidates = [
        _candidate((0.5,), spec=None),
        _candidate((0.70,), spec=SPEC),
        _candidate((0.72,), spec=replace(SPEC, share=0.1)),  # the same but for the share
        _candidate((0.71,), spec=replace(SPEC, llm_calibration="none")),
        _candidate((0.60,), spec=entropy),
    ]
    assert leading(candidates, 2) == [replace(SPEC, share=0.1), replace(SPEC, llm_calibration="none"), entropy]
    assert leading(candidates, 1) == [replace(SPEC, share=0.1), entropy]


def test_the_sweep_tries_even_steps_up_to_the_budget() -> None:
    data = prepare(score_table(1_000), 3)
    swept = sweep(data, [Candidate(SPEC, evaluate(data, SPEC))], 0.3)
    assert [item.spec.share for item in swept if item.spec] == pytest.approx([0.03 * step for step in range(1, 11)])


def test_the_honest_gain_judges_each_fold_by_what_was_best_on_the_others() -> None:
    table = score_table(3_000)
    data = prepare(table, 3)
    specs = [SPEC, Spec("entropy", 0.3, "mix", 0.4, "platt", "platt")]
    candidates = [crm_alone(data), *(Candidate(spec, evaluate(data, spec)) for spec in specs)]
    gain = honest_gain(data, candidates, draws=50, seed=1)
    differences, rows = [], []
    for number, fold in enumerate(data.folds):
        spec = best(candidates, without=number).spec
        assert spec is not None
        label = fold.judged["label"]
        differences.append(metrics.auc(label, judge(fold, spec).p_routed) - metrics.auc(label, fold.judged["p_crm"]))
        rows.append(len(label))
    assert gain.difference == pytest.approx(np.average(differences, weights=rows))
    assert gain.low < gain.difference < gain.high


def test_choosing_among_many_policies_of_noise_shows_no_gain() -> None:
    data = prepare(score_table(2_000, llm_knows_new_items=False), 4)
    specs = [Spec("entropy", share, "mix", weight, "none", "none") for share in (0.1, 0.2, 0.3) for weight in (0.05, 0.1, 0.3, 0.6, 1.0)]
    gain = honest_gain(data, [crm_alone(data), *(Candidate(spec, evaluate(data, spec)) for spec in specs)], draws=200, seed=0)
    assert not gain.above_zero


def test_the_crm_alone_as_the_best_of_all_gains_exactly_nothing() -> None:
    data = prepare(score_table(1_000), 3)
    gain = honest_gain(data, [crm_alone(data)], draws=20, seed=0)
    assert (gain.difference, gain.low, gain.high) == (0, 0, 0)
    assert not gain.above_zero


def test_the_front_holds_what_no_other_point_beats() -> None:
    points = pd.DataFrame({"share": [0.0, 0.1, 0.1, 0.2, 0.3, 0.25], "auc": [0.70, 0.71, 0.72, 0.715, 0.73, float("nan")]})
    front = pareto(points)
    assert front["share"].tolist() == [0.0, 0.1, 0.3]
    assert front["auc"].tolist() == [0.70, 0.72, 0.73]


def test_the_table_of_candidates_names_the_crm_alone() -> None:
    table = as_table([_candidate((0.6, 0.8), spec=None, share=0.0), _candidate((0.7, 0.9))])
    assert table["router"].tolist() == ["never", "gain"]
    assert table["target_share"].tolist() == [0.0, 0.2]
    assert table["auc"].tolist() == pytest.approx([0.7, 0.8])
    assert {"merge", "weight", "crm_calibration", "llm_calibration", "unit", "logloss", "share", "auc_fold_1"} <= set(table)


@pytest.mark.parametrize(
    ("gain", "asked", "expected"),
    [
        (
            Interval(0.00431, 0.0043, 0.0021, 0.0066, 500),
            True,
            "On validation the LLM adds to the CRM: AUC changes by +0.0043 (95 % interval +0.0021 to +0.0066), "
            "so the policy asks it about 29.8% of the candidates.",
        ),
        (
            Interval(0.0001, 0.0001, -0.0004, 0.0006, 500),
            False,
            "On validation the LLM adds nothing measurable to the CRM: AUC changes by +0.0001 (95 % interval -0.0004 to +0.0006), "
            "so the policy asks it never.",
        ),
        (
            Interval(0.0001, 0.0001, -0.0004, 0.0006, 500),
            True,
            "On validation the LLM adds nothing measurable to the CRM: AUC changes by +0.0001 (95 % interval -0.0004 to +0.0006); "
            "as configured, the policy asks it about 29.8% of the candidates all the same.",
        ),
    ],
)
def test_one_sentence_says_what_the_llm_adds(gain: Interval, asked: bool, expected: str) -> None:
    assert sentence(gain, 0.298, asked) == expected
