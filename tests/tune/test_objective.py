from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from components.errors import DataError
from components.routing.fit import Spec, fit_policy
from tests.components.routing.score_tables import score_table
from tune.objective import Score, crm_score, evaluate, folds_of, judge, prepare, thinned

SPEC = Spec("gain", 0.2, "mix", 0.5, "platt", "isotonic")


def test_folds_cut_the_users_evenly_and_keep_each_one_whole() -> None:
    users = score_table(2_000, users=52)["user_id"].to_numpy()
    folds = folds_of(users, 5)
    assert all(len(set(folds[users == one])) == 1 for one in set(users))
    assert sorted(len(set(users[folds == fold])) for fold in range(5)) == [10, 10, 10, 11, 11]


def test_a_users_fold_depends_neither_on_the_order_nor_on_the_number_of_rows() -> None:
    users = score_table(2_000, users=52)["user_id"].to_numpy()
    other = np.unique(users)[::-1]
    first, second = dict(zip(users, folds_of(users, 5), strict=True)), dict(zip(other, folds_of(other, 5), strict=True))
    assert first == second


def test_a_fold_without_users_is_refused() -> None:
    with pytest.raises(DataError, match="got 3"):
        folds_of(np.array(["a", "b", "c", "a"]), 5)


def test_each_fold_is_judged_by_a_policy_fitted_on_the_other_users() -> None:
    table = score_table(2_000, users=40)
    data = prepare(table, 4)
    for fold in data.folds:
        rest = table.drop(index=table.index[fold.index])
        assert not set(rest["user_id"]) & set(table["user_id"].iloc[fold.index])
        expected = fit_policy(rest, SPEC).decide(table.iloc[fold.index])
        found = judge(fold, SPEC)
        assert (found.arm == expected.arm).all()
        assert found.p_routed == pytest.approx(expected.p_routed, abs=1e-12)


def test_a_score_is_the_mean_of_its_folds_by_rows() -> None:
    score = Score((10, 30, 60), (0.7, 0.8, float("nan")), (0.5, 0.6, 0.7), (0.1, 0.2, 0.3))
    assert score.auc() == pytest.approx((0.7 * 10 + 0.8 * 30) / 40)  # the fold of one class does not count
    assert score.auc(without=0) == pytest.approx(0.8)
    assert score.logloss() == pytest.approx(0.05 + 0.18 + 0.42)
    assert score.share(without=2) == pytest.approx(0.175)


def test_the_scores_of_the_folds_agree_with_sklearn() -> None:
    table = score_table(2_000, users=40)
    data = prepare(table, 4)
    score, alone = evaluate(data, SPEC), crm_score(data)
    for number, fold in enumerate(data.folds):
        label = table["label"].to_numpy()[fold.index]
        routes = judge(fold, SPEC)
        assert score.fold_auc[number] == pytest.approx(roc_auc_score(label, routes.p_routed))
        assert score.fold_logloss[number] == pytest.approx(log_loss(label, routes.p_routed))
        assert score.fold_share[number] == pytest.approx((routes.arm == "llm").mean())
        assert alone.fold_auc[number] == pytest.approx(roc_auc_score(label, table["p_crm"].to_numpy()[fold.index]))
    assert alone.share() == 0


def test_the_llm_that_knows_new_items_helps_and_noise_does_not() -> None:
    helped, noise = prepare(score_table(), 5), prepare(score_table(llm_knows_new_items=False), 5)
    assert evaluate(helped, SPEC).auc() > crm_score(helped).auc() + 0.003
    assert evaluate(noise, SPEC).auc() < crm_score(noise).auc() + 0.001


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="p_llm, item_popularity missing"):
        prepare(score_table(200).drop(columns=["p_llm", "item_popularity"]), 5)


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(DataError, match="both labels"):
        prepare(score_table(200).assign(label=1), 5)


def test_rows_that_the_llm_did_not_answer_count_as_the_crms() -> None:
    table = score_table(2_000)
    table.loc[table.index % 2 == 0, "p_llm"] = np.nan
    everywhere = evaluate(prepare(table, 5), Spec("entropy", 1.0, "replace", 1.0, "platt", "platt"))
    assert everywhere.share() == pytest.approx(0.5, abs=0.01)


def test_thinning_keeps_whole_users_and_a_small_table_as_it_is() -> None:
    table = score_table(2_000, users=50)
    assert thinned(table, 2_000) is table
    kept = thinned(table, 700)
    assert 600 < len(kept) <= 700
    assert all((kept["user_id"] == one).sum() == (table["user_id"] == one).sum() for one in set(kept["user_id"]))
    assert thinned(table, 1)["user_id"].nunique() == 1
