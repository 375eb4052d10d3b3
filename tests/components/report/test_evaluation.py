import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from components.errors import ConfigError, DataError
from components.report.evaluation import Config, Evaluation, evaluate
from components.report.summary import summary_table
from components.report.tables import headline
from components.routing.policy import Policy, crm_only
from tests.components.report.scores import QUICK, by_hand, doubting, facts, generated, searched

FIVE = {"auc", "uauc", "logloss", "accuracy", "ece"}
SHARES = {"llm_share", "request_share"}


def judged(test: pd.DataFrame, policy: Policy, config: Config = QUICK) -> Evaluation:
    valid = generated(600, 1, "valid")
    return evaluate(valid, test, searched(valid, policy), facts(test), config)


@pytest.fixture(scope="module")
def paper() -> Evaluation:
    return judged(by_hand(), doubting())


@pytest.fixture(scope="module")
def drawn() -> Evaluation:
    valid = generated(2000, 1, "valid")
    search = searched(valid, crm_only())
    test = generated(2000, 2, "test")
    return evaluate(valid, test, searched(valid, search.policies[0.3]), facts(test), QUICK)


def test_the_arms_have_the_figures_computed_by_hand(paper: Evaluation):
    # CRM: clicked .9 .4 .7 against .2 .6 .1; only .4 against .6 is the wrong way round. Inside each user none is.
    crm, llm = paper.metrics["test"]["crm"], paper.metrics["test"]["llm"]
    assert crm["auc"] == pytest.approx(8 / 9)
    assert crm["uauc"] == 1.0
    assert crm["accuracy"] == pytest.approx(4 / 6)
    assert crm["logloss"] == pytest.approx(-sum(map(math.log, (0.9, 0.8, 0.4, 0.4, 0.7, 0.9))) / 6)
    assert llm["auc"] == 1.0


def test_a_policy_is_judged_on_the_rows_it_asked_about(paper: Evaluation):
    routed = paper.metrics["test"]["routed"]
    assert list(paper.routes["arm"]) == ["crm", "crm", "llm", "llm", "crm", "crm"]
    assert list(paper.routes["p_routed"]) == [0.9, 0.2, 0.6, 0.2, 0.7, 0.1]
    assert routed["auc"] == 1.0
    assert routed["llm_share"] == pytest.approx(2 / 6)
    assert routed["request_share"] == pytest.approx(2 / 4)
    assert routed["auc_minus_crm"]["difference"] == pytest.approx(1 / 9)


def test_random_oracle_and_placebo_get_the_policys_share(paper: Evaluation):
    test = paper.metrics["test"]
    assert paper.metrics["controls"]["placebo"]["llm_share"] == pytest.approx(2 / 6)
    assert test["random"]["llm_share"] == pytest.approx(2 / 6)
    assert test["oracle"]["llm_share"] == pytest.approx(2 / 6)
    assert test["average"]["llm_share"] == 1.0


def test_a_policy_of_share_0_leaves_random_and_oracle_a_fifth_of_the_rows():
    test = judged(generated(500, 2, "test"), crm_only()).metrics["test"]
    assert test["routed"]["llm_share"] == 0.0
    assert test["routed"]["auc"] == test["crm"]["auc"]
    assert test["routed"]["auc_minus_crm"] == {"difference": 0.0, "low": 0.0, "high": 0.0, "draws": 40}
    assert test["random"]["llm_share"] == pytest.approx(0.2)
    assert 0 < test["oracle"]["llm_share"] <= 0.2


def test_metrics_have_the_agreed_keys(drawn: Evaluation):
    metrics = drawn.metrics
    assert {"recipe", "synthetic", "rows", "test", "shares", "stages", "segments"} <= set(metrics)
    assert set(metrics["rows"]) == {"train", "valid", "test"}
    assert {name: set(entry) for name, entry in metrics["test"].items()} == {
        "crm": FIVE,
        "llm": FIVE,
        "routed": FIVE | SHARES | {"auc_minus_crm", "uauc_minus_crm"},
        "random": FIVE | SHARES,
        "average": FIVE | SHARES,
        "oracle": FIVE | SHARES,
    }
    for name in ("auc_minus_crm", "uauc_minus_crm"):
        assert set(metrics["test"]["routed"][name]) == {"difference", "low", "high", "draws"}
    assert list(metrics["shares"]) == ["0.1", "0.2", "0.3", "0.5", "1.0"]
    for entry in metrics["shares"].values():
        assert list(entry) == ["routed", "entropy", "margin", "gain", "random", "oracle"]
        assert all({"auc", "logloss", "llm_share"} <= set(figures) for figures in entry.values())
        assert {name for name, figures in entry.items() if "auc_minus_crm" in figures} == {"routed", "random"}


def test_figures_are_found_again_from_scores_and_routes(drawn: Evaluation):
    test, routed = generated(2000, 2, "test"), drawn.metrics["test"]["routed"]
    assert drawn.routes[["user_id", "item_id", "timestamp_s"]].equals(test[["user_id", "item_id", "timestamp_s"]])
    assert roc_auc_score(test["label"], drawn.routes["p_routed"]) == pytest.approx(routed["auc"], abs=1e-12)
    assert log_loss(test["label"], drawn.routes["p_routed"]) == pytest.approx(routed["logloss"], abs=1e-9)
    assert (drawn.routes["arm"] == "llm").mean() == routed["llm_share"]


def test_a_router_that_finds_the_llms_rows_beats_chance_and_stays_below_the_oracle(drawn: Evaluation):
    entry = drawn.metrics["shares"]["0.3"]
    assert entry["random"]["auc"] < entry["routed"]["auc"] < entry["oracle"]["auc"]
    assert entry["routed"]["auc_minus_crm"]["low"] > 0
    assert drawn.metrics["verdict"].startswith("Asking the LLM pays here.")


def test_at_one_share_every_router_asks_about_equally_many_test_rows(drawn: Evaluation):
    for share, entry in drawn.metrics["shares"].items():
        assert {figures["llm_share"] for name, figures in entry.items() if name != "oracle"} == {float(share)}
        assert entry["oracle"]["llm_share"] <= float(share)
        assert {name for name, figures in entry.items() if "share_at_threshold" in figures} == {"routed", "entropy", "margin", "gain"}
    assert drawn.metrics["shares"]["0.3"]["routed"]["share_at_threshold"] == drawn.metrics["test"]["routed"]["llm_share"]
    assert drawn.metrics["shares"]["0.3"]["entropy"]["share_at_threshold"] != 0.3


def test_a_policy_that_spends_more_than_its_budget_on_test_is_also_judged_within_it():
    test = generated(500, 2, "test")
    metrics = judged(test, replace(doubting(), max_llm_share=0.1)).metrics
    taken, capped = metrics["test"]["routed"]["llm_share"], metrics["controls"]["capped"]
    assert capped["llm_share"] == 0.1 < taken
    assert f"held to 10.0% of them, the policy changes the AUC by {capped['auc_minus_crm']['difference']:+.4f}" in metrics["verdict"]
    assert "10% at most" in [row[0].text.removeprefix("Routed, ") for row in headline(metrics).rows]


def test_metrics_hold_what_else_a_policy_is_held_against(drawn: Evaluation):
    controls = drawn.metrics["controls"]
    assert list(controls) == ["capped", "placebo", "stacker"]
    assert controls["stacker"]["llm_share"] == 1.0
    assert drawn.metrics["test"]["average"]["logloss"] > controls["stacker"]["logloss"]


def test_a_policy_within_its_budget_needs_no_other_figure(paper: Evaluation):
    assert "held to" not in paper.metrics["verdict"]
    assert len(headline(paper.metrics).rows) == 7


def test_at_one_share_routers_differ_in_their_rows_alone(drawn: Evaluation):
    # The policies of this search are gain routers, and margin orders rows as entropy does.
    for entry in drawn.metrics["shares"].values():
        assert entry["gain"]["auc"] == entry["routed"]["auc"]
        assert entry["margin"]["auc"] == entry["entropy"]["auc"]
    everything = drawn.metrics["shares"]["1.0"]
    assert everything["random"]["auc"] == pytest.approx(everything["entropy"]["auc"], abs=1e-12)


def test_the_curve_begins_with_the_crm_and_holds_the_front(drawn: Evaluation):
    curve, crm = drawn.metrics["curve"], drawn.metrics["test"]["crm"]
    for name in ("routed", "random", "oracle"):
        assert curve[name][0] == {"llm_share": 0.0, **{key: crm[key] for key in ("auc", "uauc", "logloss")}}
        assert [point["llm_share"] for point in curve[name]] == sorted(point["llm_share"] for point in curve[name])
    assert len(curve["routed"]) == 1 + 2 + 3  # the CRM, the front at .1 and .2, the shares beyond it
    assert [point["llm_share"] for point in curve["average"]] == [1.0]


def test_metrics_are_json_without_nan_where_auc_is_not_defined():
    test = by_hand().assign(label=np.int8(1))
    metrics = judged(test, doubting()).metrics
    assert metrics["test"]["crm"]["auc"] is None
    assert metrics["test"]["routed"]["auc_minus_crm"]["low"] is None
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert "not defined" in metrics["verdict"]


def test_rows_that_the_llm_did_not_answer_count_for_the_crm():
    test = by_hand()
    test.loc[2, "p_llm"] = np.nan
    found = judged(test, doubting())
    assert list(found.routes["arm"]) == ["crm", "crm", "crm", "llm", "crm", "crm"]
    assert found.metrics["llm_answered"] == pytest.approx(5 / 6)
    assert found.metrics["test"]["llm"]["auc"] == 1.0


def test_the_same_tables_give_the_same_figures():
    one, other = (judged(by_hand(), doubting()) for _ in range(2))
    assert one.metrics == other.metrics


def test_a_table_without_rows_or_columns_is_refused():
    with pytest.raises(DataError, match="split without rows"):
        judged(by_hand().iloc[:0], doubting())
    with pytest.raises(DataError, match="item_popularity missing"):
        judged(by_hand().drop(columns="item_popularity"), doubting())


@pytest.mark.parametrize("bad", [{"bootstrap_draws": 0}, {"random_draws": 0}])
def test_a_config_out_of_range_is_refused(bad: dict):
    with pytest.raises(ConfigError, match="evaluate"):
        Config(**bad)


def test_the_summary_names_figures_share_and_interval(paper: Evaluation):
    lines = summary_table(paper.metrics).splitlines()
    assert lines[0].split() == ["test", "AUC", "LogLoss", "ACC", "LLM", "share"]
    assert lines[1].split()[:2] == ["CRM", "0.8889"]
    assert lines[1].split()[-1] == "0.0%"
    assert lines[3].split()[0] == "routed"
    assert lines[3].split()[-1] == "33.3%"
    assert lines[4].startswith("AUC routed - CRM: +0.1111 (95 % interval ")
    assert lines[5].startswith("synthetic data")
