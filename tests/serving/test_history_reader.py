"""Histories read from a real Redis that freezes, and from a disk that stalls: requests go on with what was prepared."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from serving.breaker import CircuitBreaker
from serving.events.store import Event, Latest, open_store
from serving.histories import History, UserHistories
from serving.history_reader import AWAY, SLOW_S, HistoryReader
from tests.serving.events.servers import RedisServer
from tests.serving.test_histories import ITEMS, PREPARED, Events, user_row

OLD, NEW = (("b", 2.0), ("a", 5.0)), ("c", 3.0)
SOON_S, PAUSE_S = 0.2, 2.0


@pytest.fixture
def redis(short_folder: Path) -> RedisServer:
    return RedisServer(short_folder / "reader").start()


def test_a_store_that_freezes_costs_a_bounded_time_and_then_none(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        store = open_store(redis.uri)
        store.append(Event("e1", "ann", "c", 3.0, 200))
        breaker = CircuitBreaker(2, PAUSE_S)
        latest, asked = store.latest, []
        monkeypatch.setattr(store, "latest", lambda *question: asked.append(question) or latest(*question))
        reader = HistoryReader(UserHistories(user_row, ITEMS, PREPARED, store, 4), store, breaker, SOON_S, print)

        async def run() -> None:
            assert await reader.by("ann", time.monotonic() + 10) == (History((*OLD, NEW), 8), None)
            assert redis.process is not None
            redis.process.send_signal(signal.SIGSTOP)
            for count in (2, 3, 3, 3):  # then the circuit is open, and nobody asks any more
                assert await reader.by("ann", time.monotonic() + 2 * SOON_S) == (History(OLD, 7), AWAY)
                assert len(asked) == count
            redis.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(PAUSE_S)
            assert (await reader.by("ann", time.monotonic() + 10))[1] is None
            assert breaker.state == "closed"

        asyncio.run(run())
    finally:
        redis.kill()


class Stalling(Events):
    """A file of this machine, on a disk that stalls when it is told."""

    shared, takes_s = False, 0.0

    def latest(self, user_id: str, limit: int) -> Latest:
        time.sleep(self.takes_s)
        return super().latest(user_id, limit)


def test_a_disk_that_stalls_holds_up_one_read_and_then_nobody_else() -> None:
    store = Stalling("ann", [("c", 3.0, 200)])
    reader = HistoryReader(UserHistories(user_row, ITEMS, PREPARED, store, 4), store, CircuitBreaker(2, 0.5), SOON_S, print)

    async def run() -> None:
        whole = await reader.of("ann")
        store.takes_s = 2 * SLOW_S
        assert await reader.by("ann", time.monotonic() + 10) == (whole, None), "it waits for this one: only now it is known"
        store.takes_s = 2 * SOON_S
        reading = asyncio.create_task(reader.by("ann", time.monotonic() + SOON_S))
        started_s = time.monotonic()
        await asyncio.sleep(0.001)
        assert time.monotonic() - started_s < SOON_S, "others go on"
        assert await reading == (History(OLD, 7), AWAY)
        store.takes_s = 0.0
        await asyncio.sleep(2 * SOON_S)
        for _ in range(2):
            assert await reader.by("ann", time.monotonic() + 10) == (whole, None)
        assert not reader._is_slow

    asyncio.run(run())
