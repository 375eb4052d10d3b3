"""A headless browser, and an endpoint whose page it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.serving.ensembles import make
from tests.serving.http_server import Running, running
from tests.serving.page.browser import Page

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium-driver)")
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def ensemble(chromium: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="session")
def endpoint(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    # Patient: what is tested is the page, however busy the machine.
    with running(ensemble, tmp_path_factory.mktemp("events") / "events.db", deadline_ms=30_000) as found:
        yield found


@pytest.fixture
def page(chromium: webdriver.Chrome, endpoint: Running) -> Iterator[Page]:
    """The page as it opens on a desktop; a test that expects no complaint in the console gets none."""
    endpoint.heal()
    opened = Page(chromium, endpoint.url)
    opened.resize(1280, 900)
    opened.open()
    yield opened
    endpoint.heal()
    assert opened.complaints() == []


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("TANDEM_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
