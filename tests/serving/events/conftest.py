"""Stores that the tests of events share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.events import EventStore, open_store
from tests.serving.events.servers import DURABLE, RedisServer


@pytest.fixture(scope="session")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def empty_redis(running_redis: RedisServer) -> RedisServer:
    """The durable server that the tests share, with nothing in it."""
    running_redis.client.flushall()
    return running_redis


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start servers of a test's own."""
    servers: list[RedisServer] = []

    def start(*options: str, password: str = "") -> RedisServer:
        servers.append(RedisServer(tmp_path / f"redis{len(servers)}", options or DURABLE, password))
        return servers[-1].start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return request.getfixturevalue("empty_redis").uri
    return f"sqlite:///{tmp_path}/events.db"


@pytest.fixture
def store(uri: str) -> Iterator[EventStore]:
    opened = open_store(uri)
    yield opened
    opened.close()
