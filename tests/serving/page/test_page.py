"""The page in a real browser, before real endpoints and models."""

from __future__ import annotations

import json
import math
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from serving.events.store import EventStoreError
from serving.schemas import RankRequest
from tests.serving.ensembles import CURVE, POLICY
from tests.serving.http_server import Running, running
from tests.serving.page.browser import Page

pytestmark = pytest.mark.end_to_end
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><b>Story</b>"
REASONS = {
    "below_threshold": "Not worth asking the LLM at this threshold.",
    "above_threshold": "Worth asking the LLM at this threshold.",
    "over_budget": "Worth asking the LLM, but this request may ask no more.",
}
KEY = b"a key of enough characters"


def ask(endpoint: Running, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    sent = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(endpoint.url + path, sent, {"content-type": "application/json"})) as answer:
        return json.load(answer)


def percent(value: float | None, digits: int = 1) -> str:
    return "—" if value is None else f"{100 * value:.{digits}f} %"


def limits(asked: list[RankRequest]) -> list[tuple[float | None, float | None]]:
    return [(None if request.threshold is None else float(request.threshold), request.max_llm_share) for request in asked]


@pytest.fixture
def asked(endpoint: Running, monkeypatch: pytest.MonkeyPatch) -> list[RankRequest]:
    """The questions for lists that reach the endpoint."""
    requests: list[RankRequest] = []
    rank = endpoint.service.rank

    async def recorded(request: RankRequest) -> dict[str, Any]:
        requests.append(request)
        return await rank(request)

    monkeypatch.setattr(endpoint.service, "rank", recorded)
    return requests


@pytest.fixture
def hostile(endpoint: Running) -> Iterator[None]:
    items, users = endpoint.service.store.items, endpoint.service.store.users
    before = items["title"].copy(), users["mood"].copy()
    items["title"], users["mood"] = HOSTILE, HOSTILE
    yield
    items["title"], users["mood"] = before


def test_head_says_what_is_served(page: Page, endpoint: Running) -> None:
    assert page.text("reads") == POLICY.reads()
    assert endpoint.service.model_version in page.text("facts")
    assert endpoint.service.policy_version in page.text("facts")
    assert "generated" not in page.text("facts")


def test_chosen_user_shows_history_and_list(page: Page, endpoint: Running, screenshots: Path) -> None:
    page.get("user").click()
    page.get("user").clear()
    page.get("user").send_keys("u3")
    assert page.get("user").get_attribute("aria-expanded") == "true"
    page.after(lambda: page.get("user").send_keys(Keys.ARROW_DOWN, Keys.ENTER))
    known = ask(endpoint, "/v1/users/u3")
    assert "User u3" in page.text("profile-title")
    assert page.text("profile-text") == known["profile"]
    assert page.history() == [(entry["title"], f"★ {entry['rating']:g}") for entry in reversed(known["history"])]
    answer = ask(endpoint, "/v1/rank", {"user": {"id": "u3"}, "k": 10, "exclude_seen": True})
    rows = page.rows()
    assert len(rows) == 10
    assert [row.id for row in rows] == [result["id"] for result in answer["results"]]
    assert [row.title for row in rows] == [f"Story {row.id[1:]}" for row in rows]
    assert all(row.text.startswith("genre: genre ") for row in rows)
    for row, result in zip(rows, answer["results"], strict=True):
        assert row.arm == result["arm"].upper()
        assert row.p_crm.endswith(percent(result["p_crm"]))
        assert row.p_llm.endswith(percent(result["p_llm"]))
        assert row.score.endswith(percent(result["score"]))
        assert row.confidence.endswith(percent(result["confidence"], 0))
        assert row.why == REASONS[result["reason"]]
    assert {row.arm for row in rows} == {"CRM", "LLM"}
    page.photograph(screenshots / "page-desktop.png")


def test_slider_moves_the_threshold_for_this_page(page: Page, asked: list[RankRequest]) -> None:
    def shown() -> tuple[str, ...]:
        return page.text("list-share"), page.text("test-share"), page.text("auc"), page.text("auc-gain")

    page.ask_for("u3")
    assert "as deployed" in page.text("position")
    assert not page.get("reset").is_enabled()
    deployed = [row.arm for row in page.rows()]
    page.after(lambda: page.press(Keys.END))
    assert page.arms() == {"LLM"}
    assert shown() == ("100 %", "100 %", f"{CURVE[1]['auc']:.4f}", "+0.1000")
    assert page.text("llm-ms") != "0 ms"
    page.after(lambda: page.press(Keys.HOME))
    assert page.arms() == {"CRM"}
    assert shown() == ("0 %", "0 %", f"{CURVE[0]['auc']:.4f}", "+0.0000")
    assert page.text("llm-ms") == "0 ms"
    page.after(lambda: page.get("reset").click())
    assert [row.arm for row in page.rows()] == deployed
    share = Counter(deployed)["LLM"] / len(deployed)
    assert shown() == (f"{100 * share:.0f} %", "0 % – 100 %", "0.600 – 0.700", "+0.000 – +0.100")
    assert limits(asked) == [(None, None), (-math.inf, 1.0), (math.inf, 1.0), (None, None)]


def test_slider_that_moves_on_asks_once(page: Page, asked: list[RankRequest]) -> None:
    page.after(lambda: page.drag(0, 1, 2, 1, 2))
    assert limits(asked) == [(-math.inf, 1.0)]


def test_late_answer_to_an_older_question_is_not_shown(page: Page, endpoint: Running) -> None:
    before = page.answers
    endpoint.llm.asked.clear()
    endpoint.llm.delay_s = 3.0
    page.press(Keys.END)
    page.wait(lambda: endpoint.llm.asked)
    page.after(lambda: page.press(Keys.HOME))
    page.chrome.execute_async_script("setTimeout(arguments[0], 4000)")
    assert page.arms() == {"CRM"}
    assert page.answers == before + 1


def test_titles_stay_text(page: Page, hostile: None) -> None:
    page.open()
    page.ask_for("u5")
    assert {row.title for row in page.rows()} == {HOSTILE}
    assert {title for title, _ in page.history()} == {HOSTILE}
    assert HOSTILE in page.text("profile-text")
    page.get("user").click()
    assert HOSTILE in page.text("user-list")
    assert page.chrome.title == "Tandem"
    assert page.chrome.execute_script("return document.querySelectorAll('img, td b, li b img').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_needs_no_sideways_scrolling(page: Page, screenshots: Path, scheme: str) -> None:
    page.resize(360, 780, scheme)
    page.open()
    page.ask_for("u3")
    assert page.chrome.execute_script("return document.documentElement.scrollWidth") <= 360
    page.get("user").click()
    assert page.chrome.execute_script("return document.documentElement.scrollWidth") <= 360
    page.get("user").send_keys(Keys.ESCAPE)
    assert page.get("user").get_attribute("aria-expanded") == "false"
    page.photograph(screenshots / f"page-phone-{scheme}.png")


def test_long_words_do_not_widen_the_phone(page: Page, endpoint: Running) -> None:
    items = endpoint.service.store.items
    before = items["title"].copy()
    items["title"] = "W" * 180
    try:
        page.resize(360, 780)
        page.open()
        assert page.chrome.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        items["title"] = before


def test_degraded_answer_says_why(page: Page, endpoint: Running, screenshots: Path) -> None:
    endpoint.llm.fails = True
    page.after(lambda: page.press(Keys.END))
    assert "llm_unavailable" in page.notice("degraded")
    assert page.arms() == {"CRM"}
    assert {row.why for row in page.rows()} == {"The LLM was asked and gave no answer."}
    page.photograph(screenshots / "page-degraded.png")
    endpoint.heal()
    page.after(lambda: page.press(Keys.HOME))
    assert page.notice("degraded") == ""


def test_missing_events_are_not_said_to_be_the_llms_fault(page: Page, endpoint: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(user_id: str) -> None:
        raise EventStoreError("away")

    with monkeypatch.context() as patched:
        patched.setattr(endpoint.service.histories._histories, "of", away)
        page.after(lambda: page.press(Keys.END))
    assert page.arms() == {"LLM"}
    said = "Degraded answer: the store of events is away, so the latest interactions of this user are missing (events_unavailable)."
    assert page.notice("degraded") == said


def test_unknown_id_gets_a_cold_start_list(page: Page) -> None:
    page.ask_for("nobody / at all")
    assert "nobody / at all" in page.notice("unknown")
    assert page.text("history-count") == "No history is known."
    assert len(page.rows()) == 10
    assert [entry for entry in page.complaints() if "404" not in entry] == []


def test_error_is_readable_and_can_be_tried_again(page: Page, endpoint: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(user_id: str) -> None:
        raise EventStoreError("away")

    async def failing(request: RankRequest) -> None:  # without the store alone it would answer from the model's own histories
        raise EventStoreError("away")

    with monkeypatch.context() as patched:
        patched.setattr(endpoint.service.histories, "of", away)
        patched.setattr(endpoint.service, "rank", failing)
        page.get("user").clear()
        page.get("user").send_keys("u4", Keys.ENTER)
        page.wait(lambda: page.notice("ranking") and page.notice("profile"))
        assert "the store of events is away" in page.notice("ranking")
        assert page.rows() == []
    assert [entry for entry in page.complaints() if "503" not in entry] == []
    page.after(lambda: page.chrome.find_element("css selector", ".notice[data-kind=ranking] button").click())
    assert page.notice("ranking") == ""
    assert len(page.rows()) == 10


def test_key_is_asked_for_and_kept(chromium: Chrome, ensemble: Path, tmp_path: Path) -> None:
    with running(ensemble, tmp_path / "events.db", KEY, deadline_ms=30_000) as guarded:
        page = Page(chromium, guarded.url)
        page.resize(1280, 900)
        page.load()
        for key, hint in (("wrong", "until this tab is closed"), (KEY.decode(), "refused")):
            page.wait(lambda hint=hint: page.get("key-dialog").is_displayed() and hint in page.text("key-hint"))
            assert page.rows() == []
            page.get("key").send_keys(key, Keys.ENTER)
        page.wait(lambda: page.answers and page.settled)
        assert len(page.rows()) == 10
        assert not page.get("key-dialog").is_displayed()
        assert page.notice("key") == ""
        assert [entry for entry in page.complaints() if "401" not in entry] == []
        page.open()
        assert page.complaints() == []
