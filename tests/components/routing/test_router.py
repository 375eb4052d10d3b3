from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from components.errors import ArtifactError
from components.routing import router
from components.routing.router import EntropyRouter, GainRouter, MarginRouter
from tests.components.routing.score_tables import score_table

ROWS = {
    "p_crm": np.array([0.5, 0.9]),
    "item_popularity": np.array([0, 3]),
    "user_popularity": np.array([7, 0]),
    "earlier_count": np.array([1, 0]),
}


def test_entropy_and_margin_ask_for_the_unsure_rows_first() -> None:
    assert EntropyRouter().estimate(ROWS) == pytest.approx([0.693147, 0.325083], abs=1e-6)
    assert MarginRouter().estimate(ROWS) == pytest.approx([0, -0.4])


def test_the_features_of_two_rows_are_as_worked_out_by_hand() -> None:
    found = dict(zip(router.FEATURES, router.features(ROWS), strict=True))
    assert found["abs_logit"] == pytest.approx([0, np.log(9)])
    assert found["log_item_popularity"] == pytest.approx([0, np.log(4)])
    assert found["log_earlier_count"] == pytest.approx([np.log(2), 0])
    assert found["new_item"].tolist() == [1, 0]
    assert found["new_user"].tolist() == [0, 1]


def test_the_gain_router_is_sklearns_ridge_on_standardised_features() -> None:
    rows = score_table(2_000)
    gain = np.random.default_rng(0).normal(size=2_000) + (rows.item_popularity == 0).to_numpy()
    X = StandardScaler().fit_transform(np.column_stack(router.features(rows)))
    expected = Ridge(alpha=router.RIDGE).fit(X, gain).predict(X)
    assert router.fit_gain(rows, gain).estimate(rows) == pytest.approx(expected)


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    rows = score_table(500).assign(user_popularity=5)
    fitted = router.fit_gain(rows, np.random.default_rng(0).normal(size=500))
    assert fitted.weights[router.FEATURES.index("new_user")] == 0


def test_a_row_gets_the_same_estimate_alone_and_in_a_batch() -> None:
    rows = score_table(300)
    fitted = router.fit_gain(rows, np.random.default_rng(0).normal(size=300))
    alone = np.concatenate([fitted.estimate(rows.iloc[[i]]) for i in range(300)])
    assert (alone == fitted.estimate(rows)).all()


@pytest.mark.parametrize("one", [EntropyRouter(), MarginRouter(), GainRouter(0.1, (1.0, -2.0, 0.3, 0.4, 0.5, 0.6))])
def test_a_router_read_back_from_json_is_the_same(one: router.Router) -> None:
    assert router.router_from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"name": "oracle"}, {"name": "gain", "intercept": 0, "weights": {"entropy": 1}}),
        {"name": "gain", "intercept": np.nan, "weights": dict.fromkeys(router.FEATURES, 1.0)},
        {"name": "gain", "intercept": 0.0, "weights": dict.fromkeys(router.FEATURES, np.inf)},
    ],
    ids=str,
)
def test_json_that_is_no_router_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ArtifactError):
        router.router_from_json(value)
