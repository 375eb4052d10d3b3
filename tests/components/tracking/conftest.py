"""Stores that the tests of tracking share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.tracking import Tracking, open_tracker
from tests.components.tracking.stores import Server, free_port, sqlite_uri


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("empty")
    open_tracker(Tracking.Config(experiment="unused"), sqlite_uri(folder), folder / "spool.jsonl")
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """A folder of its own with an empty store."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db")).parent


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), free_port())
    try:
        started.start()
        yield started
    finally:
        started.kill()
