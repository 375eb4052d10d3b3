"""Metrics against sklearn, numbers worked out by hand, and a bootstrap without any short cut."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from components import metrics


def _rows(rows: int, users: int, seed: int = 0, decimals: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.random(rows).round(decimals)
    label = (random.random(rows) < 0.3 + 0.4 * p).astype(np.int8)
    return label, p, random.integers(users, size=rows).astype(str)


def test_the_auc_of_four_rows_is_what_counting_pairs_gives() -> None:
    # Pairs (positive, negative): .8>.4 yes, .8>.1 yes, .4=.4 half, .4>.1 yes -> 3.5 of 4.
    assert metrics.auc(np.array([1, 0, 1, 0]), np.array([0.8, 0.4, 0.4, 0.1])) == pytest.approx(0.875)


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_auc_agrees_with_sklearn_however_many_scores_tie(decimals: int) -> None:
    label, p, _ = _rows(2000, 10, decimals=decimals)
    assert metrics.auc(label, p) == pytest.approx(roc_auc_score(label, p), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_auc_counts_every_pair_of_a_positive_and_a_negative(rows: list[tuple[bool, int]]) -> None:
    label, p = np.array([int(row[0]) for row in rows]), np.array([row[1] / 4 for row in rows])
    pairs = [(a > b) + (a == b) / 2 for a in p[label == 1] for b in p[label == 0]]
    expected = np.mean(pairs) if pairs else np.nan
    assert metrics.auc(label, p) == pytest.approx(expected, nan_ok=True)


def test_a_metric_of_one_class_or_of_no_row_is_nan() -> None:
    ones, none = np.ones(3, np.int8), np.array([])
    assert np.isnan(metrics.auc(ones, np.array([0.1, 0.2, 0.3])))
    assert np.isnan(metrics.uauc(ones, np.array([0.1, 0.2, 0.3]), np.array(["a", "a", "b"])))
    assert all(np.isnan(value) for value in metrics.summary(none, none, none).values())


def test_a_score_that_is_nan_is_refused() -> None:
    with pytest.raises(AssertionError, match="nan"):
        metrics.auc(np.array([0, 1]), np.array([0.5, np.nan]))


def test_uauc_is_the_plain_mean_over_users_with_both_labels() -> None:
    user = np.array(["a", "b", "a", "b", "a", "b", "c", "c"])
    label = np.array([1, 1, 0, 0, 1, 0, 1, 1])
    p = np.array([0.9, 0.2, 0.5, 0.2, 0.4, 0.8, 0.3, 0.6])
    # a: .9>.5 and .4<.5 -> 1/2. b: .2=.2 half, .2<.8 none -> 1/4. c has one label only. (1/2 + 1/4) / 2 = 3/8.
    assert metrics.uauc(label, p, user) == pytest.approx(0.375)


def test_uauc_agrees_with_sklearn_user_by_user() -> None:
    label, p, user = _rows(3000, 200, decimals=1)
    aucs = [roc_auc_score(label[user == one], p[user == one]) for one in np.unique(user) if len(set(label[user == one])) == 2]
    assert metrics.uauc(label, p, user) == pytest.approx(np.mean(aucs), abs=1e-12)


def test_logloss_and_accuracy_agree_with_sklearn() -> None:
    label, p, _ = _rows(1000, 10)
    assert metrics.logloss(label, p) == pytest.approx(log_loss(label, np.clip(p, 1e-7, 1 - 1e-7)))
    assert metrics.accuracy(label, p) == pytest.approx(accuracy_score(label, p >= 0.5))


def test_a_certain_and_wrong_answer_costs_a_finite_logloss() -> None:
    assert metrics.logloss(np.array([1, 0]), np.array([0.0, 0.0])) == pytest.approx(-np.log(1e-7) / 2, rel=1e-6)


def test_ece_weighs_each_bin_by_its_rows() -> None:
    # Bins of width 1/15: [.05, .06] -> bin 0; [.5, .52] -> bin 7; 1.0 -> bin 14 (closed).
    p, label = np.array([0.05, 0.06, 0.5, 0.52, 1.0]), np.array([0, 1, 1, 1, 1])
    # Bin 0: |1 - .11| = .89; bin 7: |2 - 1.02| = .98; bin 14: 0. (.89 + .98) / 5 = .374.
    assert metrics.ece(label, p) == pytest.approx(0.374)


def test_the_summary_has_every_metric_under_its_usual_name() -> None:
    label, p, user = _rows(500, 20)
    summary = metrics.summary(label, p, user)
    assert list(summary) == ["auc", "uauc", "logloss", "accuracy", "ece"]
    expected = [
        metrics.auc(label, p),
        metrics.uauc(label, p, user),
        metrics.logloss(label, p),
        metrics.accuracy(label, p),
        metrics.ece(label, p),
    ]
    assert list(summary.values()) == pytest.approx(expected)


@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_a_weight_of_two_counts_a_user_twice(name: str) -> None:
    label, p, user = _rows(300, 12, seed=3, decimals=1)
    code = user.astype(int)
    weight = np.random.default_rng(1).integers(0, 4, size=12).astype(float)
    weight[0] = 0
    times = weight[code].astype(int)
    repeated = [np.repeat(values, times) for values in (label, p)]
    # A user drawn twice is two users, as in a real resample.
    twin = np.concatenate([np.arange(count) for count in times])
    names = np.char.add(np.char.add(np.repeat(user, times), "-"), twin.astype(str))
    assert metrics.METRICS[name](label, p, code)(weight) == pytest.approx(metrics.summary(*repeated, names)[name])


@pytest.mark.parametrize("name", ["auc", "uauc", "logloss"])
def test_the_bootstrap_equals_one_that_copies_rows(name: str) -> None:
    label, p, user = _rows(400, 25, seed=5, decimals=1)
    baseline = np.random.default_rng(9).random(400)
    users = list(dict.fromkeys(user))
    random = np.random.default_rng(7)
    naive = []
    for _ in range(40):
        drawn = random.integers(len(users), size=len(users))
        rows = np.concatenate([np.flatnonzero(user == users[one]) for one in drawn])
        twin = np.repeat(np.arange(len(drawn)), [int((user == users[one]).sum()) for one in drawn])
        naive.append(metrics.summary(label[rows], p[rows], twin)[name] - metrics.summary(label[rows], baseline[rows], twin)[name])
    found = metrics.bootstrap_by_user(label, p, baseline, user, draws=40, seed=7, metric=metrics.METRICS[name])
    assert found.mean == pytest.approx(np.mean(naive))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])))
    assert found.difference == pytest.approx(metrics.summary(label, p, user)[name] - metrics.summary(label, baseline, user)[name])


def test_resamples_without_both_classes_are_left_out() -> None:
    # Two users, one class each: a draw is defined only when it takes both.
    label, user = np.array([1, 1, 0, 0]), np.array(["a", "a", "b", "b"])
    found = metrics.bootstrap_by_user(label, np.array([0.9, 0.8, 0.1, 0.2]), np.array([0.1, 0.2, 0.9, 0.8]), user, draws=100)
    assert (found.difference, found.mean, found.low, found.high) == (1.0, 1.0, 1.0, 1.0)
    assert 30 < found.draws < 70
    assert found.above_zero


def test_an_interval_without_any_defined_draw_is_nan_and_not_above_zero() -> None:
    found = metrics.bootstrap_by_user(np.ones(3), np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1]), np.arange(3), draws=5)
    assert np.isnan([found.difference, found.mean, found.low, found.high]).all()
    assert found.draws == 0
    assert not found.above_zero


def test_within_averages_groups_by_their_rows() -> None:
    label = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    p = np.array([0.9, 0.1, 0.8, 0.2, 0.1, 0.9, 0.7, 0.3, 0.6, 0.4])
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    # Group 0 is perfect. Group 1: positives .1 .7 .6 against .9 .3 .4 -> 0 + 2 + 2 of 9. (4 * 1 + 6 * 4/9) / 10 = 2/3.
    value = metrics.within(metrics.weighted_auc, group)(label, p, np.arange(10))(np.ones(10))
    assert value == pytest.approx(2 / 3)


def test_a_thousand_resamples_of_the_largest_test_set_take_seconds() -> None:
    label, p, user = _rows(97_002, 1_800, decimals=12)
    started_s = time.process_time()
    metrics.bootstrap_by_user(label, p, p[::-1], user, draws=100)
    assert time.process_time() - started_s < 3  # measured: 0.15 s; a resample that sorts would take longer
