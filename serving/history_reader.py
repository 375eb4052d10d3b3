"""Histories as requests read them: within a time, and the prepared one alone where the store of events is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serving.breaker import CircuitBreaker
from serving.events.store import EventStore, EventStoreError
from serving.guarded import Guarded, UnansweredError
from serving.histories import History, UserHistories

LOGGER = logging.getLogger("ray.serve")
THREADS = 16  # that wait for the store of events, and hold up nothing else
SLOW_S = 0.02  # a read that took longer lets the next ones wait in threads, until one is quick again
AWAY = "events_unavailable"
Found = TypeVar("Found")


class HistoryReader:
    """Reads histories without holding up other requests."""

    def __init__(
        self, histories: UserHistories, events: EventStore, breaker: CircuitBreaker, patience_s: float, on_state: Callable[[str], None]
    ) -> None:
        self._histories, self._shared = histories, events.shared
        self._is_slow = self._shared
        self._threads = ThreadPoolExecutor(THREADS, "events")
        self._guarded = Guarded("the store of events", lambda user_id, _: self.waiting(self._read, user_id), breaker, patience_s, on_state)

    async def of(self, user_id: str) -> History:
        """Return a history with its events; raises EventStoreError."""
        return await self.waiting(self._read, user_id) if self._is_slow else self._read(user_id)

    async def by(self, user_id: str, until_s: float) -> tuple[History, str | None]:
        """Return a history, and AWAY where the store of events did not answer `until_s` and its events are missing."""
        try:
            if self._is_slow:
                return await self._guarded.ask(user_id, until_s - time.monotonic(), lambda found: found), None
            return self._read(user_id), None
        except UnansweredError:  # told in the log where it is news
            return self._histories.prepared(user_id), AWAY
        except EventStoreError as error:
            LOGGER.error("a history without its events: %s", error)
            return self._histories.prepared(user_id), AWAY

    def waiting(self, call: Callable[..., Found], *arguments: Any) -> asyncio.Future[Found]:
        """Make a call that waits for the store of events in a thread of its own."""
        return asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def _read(self, user_id: str) -> History:
        # A read from the file beside it takes 0.2 ms, less than by way of a thread, and waits for no writer: 99 of 100 took
        # less than 0.6 ms while two processes appended 2,000 events/s. A disk that stalls must not stop every request.
        started_s = time.monotonic()
        try:
            return self._histories.of(user_id)
        finally:
            self._is_slow = self._shared or time.monotonic() - started_s > SLOW_S
