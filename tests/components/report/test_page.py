import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from components.report.evaluation import evaluate
from components.report.figures import figures
from components.report.page import render
from components.routing.policy import Policy, crm_only
from components.tracking import Tracking
from tests.components.report.scores import LOG, QUICK, by_hand, doubting, facts, generated, searched

VOID = {"meta", "br", "hr", "img", "input", "link"}
EVIL = "<script>alert('&')</script>"


class Reader(HTMLParser):
    """Checks that tags close in order, and keeps every tag and every address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"


def measured(policy: Policy, test: pd.DataFrame | None = None, recipe: str = "demo") -> dict:
    valid = generated(600, 1, "valid")
    test = generated(400, 2, "test") if test is None else test
    return evaluate(valid, test, searched(valid, policy), facts(test, recipe), QUICK).metrics


@pytest.fixture(scope="module")
def never() -> tuple[dict, dict[str, bytes]]:
    """Metrics and figures of a policy of share 0."""
    metrics = measured(crm_only())
    return metrics, figures(metrics, LOG)


@pytest.fixture(scope="module")
def page() -> str:
    metrics = measured(searched(generated(600, 1, "valid"), crm_only()).policies[0.3], recipe=EVIL)
    return render(metrics, figures(metrics, LOG), {"seed": 1, "data": EVIL})


def test_the_page_is_well_formed_and_has_no_id_twice(page: str):
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {"h1", "table", "figure", "svg", "details"} <= reader.tags


def test_the_page_needs_no_network_and_no_script(page: str):
    reader = Reader(page)
    assert not reader.tags & {"script", "link", "img", "iframe", "object"}
    assert all(address.startswith("#") for address in reader.addresses)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page


def test_every_reference_inside_the_page_leads_somewhere(page: str):
    reader = Reader(page)
    wanted = {address.removeprefix("#") for address in reader.addresses} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert wanted <= set(reader.ids)


def test_names_of_the_user_are_escaped(page: str):
    assert "<script" not in page
    assert "<h1>&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;</h1>" in page


def test_synthetic_data_is_named_as_such(page: str, never: tuple):
    assert 'class="banner"' in page
    assert 'class="banner"' not in render(never[0] | {"synthetic": False}, {}, {})


def test_the_page_is_made_from_metrics_as_they_were_written(never: tuple):
    again = json.loads(json.dumps(never[0], allow_nan=False))
    assert render(again, {}, {}) == render(never[0], {}, {})
    assert figures(again, LOG) == never[1]


def test_no_password_of_a_uri_is_shown(never: tuple):
    page = render(never[0], {}, {"tracking": Tracking.Config(uri="postgresql://me:ge/heim@db/mlflow")})
    assert "postgresql://***@db/mlflow" in page
    assert "heim" not in page


def test_the_page_tells_the_figures_that_were_measured():
    metrics = measured(doubting(), by_hand())
    text = render(metrics, {}, {})
    assert "0.8889" in text
    assert "33.3%" in text
    assert metrics["policy"]["reads"].split("'")[0] in text
    assert "1 min 15 s" in text
    assert "reach an AUC of 0.9000" in text


def test_a_page_without_a_known_best_or_quarantine_says_so(never: tuple):
    text = render(never[0] | {"best_auc": None, "quarantine": {}, "llm_answered": 0.5}, {}, {})
    assert "reach an AUC" not in text
    assert "the quarantine is empty" in text
    assert "The LLM answered 50.0% of the test rows" in text


def test_every_figure_is_svg_that_can_be_read_alone(never: tuple):
    assert set(never[1]) == {
        *("auc_by_share", "auc_by_share_oracle", "confidence_auc", "confidence_logloss", "confidence_accuracy"),
        *("reliability_crm", "reliability_llm", "training_joint"),
    }
    for svg in never[1].values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")


@pytest.mark.parametrize("policy", [crm_only(), doubting()], ids=["share 0", "asking"])
def test_rows_of_one_label_only_still_give_figures_and_a_page(policy: Policy):
    metrics = measured(policy, by_hand().assign(label=np.int8(0)))
    drawn = figures(metrics, [])
    Reader(render(metrics, drawn, {}))
    assert not any(name.startswith("training") for name in drawn)


def test_one_group_without_clicks_still_gives_figures():
    test = by_hand()
    test.loc[[2, 3], "label"] = 0  # the least confident third
    metrics = measured(doubting(), test)
    assert metrics["segments"]["confidence"][2]["crm"]["auc"] is None
    assert "–" in render(metrics, figures(metrics, []), {})


def test_one_test_row_gives_a_report():
    metrics = measured(doubting(), by_hand().iloc[:1])
    assert metrics["test"]["crm"]["auc"] is None  # one label alone
    assert "an undefined AUC" in render(metrics, figures(metrics, []), {})
