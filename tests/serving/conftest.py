"""What the tests of the endpoint share: one small ensemble, and the endpoint that answers from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ensembles
from tests.serving.http_server import Called, Running, called, running

MAX_BODY_BYTES = 200_000


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensembles.make(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="session")
def opened(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Called]:
    # Patient: what is tested are the answers, however busy the machine.
    with called(ensemble, tmp_path_factory.mktemp("events") / "events.db", deadline_ms=30_000) as found:
        yield found


@pytest.fixture
def http(opened: Called) -> Called:
    """The endpoint with its LLM well."""
    opened.heal()
    return opened


@pytest.fixture
def fresh(ensemble: Path, tmp_path: Path) -> Iterator[Called]:
    """An endpoint of the test's own, without any event."""
    with called(ensemble, tmp_path / "events.db", deadline_ms=30_000) as found:
        yield found


@pytest.fixture(scope="session")
def listening(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The endpoint on a port, for what only a connection shows."""
    events = tmp_path_factory.mktemp("events") / "events.db"
    with running(ensemble, events, deadline_ms=30_000, max_body_bytes=MAX_BODY_BYTES) as found:
        yield found
