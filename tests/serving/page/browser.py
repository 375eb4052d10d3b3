"""The page as a person meets it: what is typed, moved and read."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 60.0


@dataclass(frozen=True)
class Row:
    """An item of the list."""

    id: str
    title: str
    text: str
    score: str
    arm: str
    why: str
    p_crm: str
    p_llm: str
    confidence: str


class Page:
    """One tab."""

    def __init__(self, chrome: Chrome, url: str) -> None:
        self.chrome, self.url = chrome, url

    def open(self) -> None:
        """Load the page anew and wait for its first list."""
        self.load()
        self.wait(lambda: self.answers > 0 and self.settled)

    def load(self) -> None:
        self.chrome.get(self.url)

    def get(self, name: str) -> WebElement:
        return self.chrome.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.get(name).text.replace("\xa0", " ")

    def wait(self, true: Callable[[], Any]) -> None:
        WebDriverWait(self.chrome, WAIT_S, 0.05).until(lambda _: true())

    @property
    def answers(self) -> int:
        """How many lists this page has shown."""
        return int(self.get("ranking").get_attribute("data-answers") or 0)

    @property
    def settled(self) -> bool:
        return all(self.get(part).get_attribute("aria-busy") == "false" for part in ("routing", "ranking", "profile"))

    def after(self, act: Callable[[], Any]) -> None:
        """Act, then wait for the list that follows."""
        before = self.answers
        act()
        self.wait(lambda: self.answers > before and self.settled)

    def ask_for(self, user: str) -> None:
        """Type a user's id and press Enter."""
        self.get("user").clear()
        self.after(lambda: self.get("user").send_keys(user, Keys.ENTER))

    def press(self, *keys: str) -> None:
        """Move the slider with the keyboard."""
        self.get("threshold").send_keys(*keys)

    def drag(self, *positions: int) -> None:
        """Move the slider over some positions at once."""
        move = "const [s, ...all] = arguments; for (const p of all) { s.value = p; s.dispatchEvent(new Event('input')); }"
        self.chrome.execute_script(move, self.get("threshold"), *positions)

    def rows(self) -> list[Row]:
        def part(row: WebElement, css: str) -> str:
            return "".join(found.text for found in row.find_elements(By.CSS_SELECTOR, css)).replace("\xa0", " ")

        return [
            Row(
                id=row.get_attribute("data-id") or "",
                title=part(row, ".title"),
                text=part(row, ".text"),
                score=part(row, ".score"),
                arm=part(row, ".arm"),
                why=part(row, ".why"),
                p_crm=part(row, ".p-crm"),
                p_llm=part(row, ".p-llm"),
                confidence=part(row, ".confidence"),
            )
            for row in self.chrome.find_elements(By.CSS_SELECTOR, "#items .item")
        ]

    def arms(self) -> set[str]:
        return {row.arm for row in self.rows()}

    def history(self) -> list[tuple[str, str]]:
        """Return title and rating of each entry as they are shown."""
        entries = [entry.text for entry in self.chrome.find_elements(By.CSS_SELECTOR, "#history li") if entry.is_displayed()]
        return [(title, rating) for title, rating in (entry.split("\n") for entry in entries)]

    def notice(self, kind: str) -> str:
        return "".join(found.text for found in self.chrome.find_elements(By.CSS_SELECTOR, f".notice[data-kind={kind}]"))

    def complaints(self) -> list[str]:
        """Return what the console holds since the last call."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def photograph(self, target: Path) -> None:
        """Save all of the page, also what is below the screen's end."""
        image = self.chrome.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        target.write_bytes(base64.b64decode(image["data"]))
