import pytest

from components.report.bench import Bench
from components.report.segments import confidence_groups, segments
from tests.components.report.scores import by_hand, doubting


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of(by_hand(), draws=10, seed=0)


def test_the_crms_confidence_cuts_the_rows_into_thirds(bench: Bench):
    # |p - .5|: .4 .3 .1 .1 .2 .4
    groups = [mask.nonzero()[0].tolist() for mask in confidence_groups(bench)]
    assert groups == [[0, 5], [1, 4], [2, 3]]


def test_both_arms_are_compared_inside_each_third(bench: Bench):
    last = segments(bench, doubting().decide(bench.rows))["confidence"][-1]
    assert last["name"] == "least confident"
    assert last["rows"] == 2
    assert last["crm"]["auc"] == 0.0  # the clicked row has .4, the other .6
    assert last["llm"]["auc"] == 1.0  # .6 and .2
    assert last["crm"]["accuracy"] == 0.0
    assert last["llm_share"] == 1.0


def test_both_arms_are_compared_inside_what_the_policy_asked_about(bench: Bench):
    asked, left = segments(bench, doubting().decide(bench.rows))["asked"]
    assert (asked["name"], asked["rows"], asked["llm_share"]) == ("asked the LLM", 2, 1.0)
    assert (asked["crm"]["auc"], asked["llm"]["auc"], asked["routed"]["auc"]) == (0.0, 1.0, 1.0)
    assert (left["name"], left["rows"], left["llm_share"]) == ("left to the CRM", 4, 0.0)
    assert left["crm"] == left["routed"]


def test_rows_fall_into_buckets_of_history_and_popularity(bench: Bench):
    found = segments(bench, doubting().decide(bench.rows))
    assert [(item["name"], item["rows"]) for item in found["history"]] == [("0 to 9", 2), ("10 to 29", 3), ("300 or more", 1)]
    assert [(item["name"], item["rows"]) for item in found["item_popularity"]] == [("new item", 2), ("1 to 9", 2), ("10 to 99", 2)]
    assert [(item["name"], item["rows"]) for item in found["user_popularity"]] == [("new user", 3), ("1 or more", 3)]
    assert [item["llm_share"] for item in found["item_popularity"]] == [0.5, 0.0, 0.5]
