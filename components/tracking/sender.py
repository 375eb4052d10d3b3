"""Sends events to the store while it answers, and keeps them in the spool, in order, while it does not."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from components.tracking import names
from components.tracking.spool import FILE_KINDS, Event, Spool

if TYPE_CHECKING:
    from components.tracking.store import Store

BACKLOG_S = 5.0  # the longest that one event waits for kept ones before it
LAST_BACKLOG_S = 60.0  # the same at the end of a run
COST_FACTOR = 10  # an attempt that took long is repeated late: tracking costs a tenth of the run's time at most
T = TypeVar("T")


class AwayError(Exception):
    """The store does not answer now."""


class Sender:
    """The way to one store. What fails there is logged once as a warning and sent again later.

    What the store will not take (a figure of a deleted run) holds up nothing: it goes to `<spool>.refused`, and is tried
    once more whenever the store is opened. Files and models are not kept: whoever sends them sends them again while `is_behind`.
    """

    def __init__(self, connect: Callable[[], Store], spool: Spool, retry_s: float) -> None:
        self._connect, self._spool, self._retry_s = connect, spool, retry_s
        self._refused, self._refused_runs = spool.refused, set[str | None]()
        self._store: Store | None = None
        self._lacks_files = False
        self._next_try_s, self._warned = 0.0, set[str]()
        self._lock = threading.RLock()

    def record(self, event: Event) -> str | None:
        """Apply one event, or keep it; return what the store answers to it."""
        with self._lock:
            try:
                store, refused = self._ready(BACKLOG_S), list[Event]()
                answer = self._call(lambda: self._apply(store, event, refused))
                self._keep(self._refused, refused)
                return answer
            except AwayError:
                self._keep(self._spool, [event])
                return None

    @property
    def is_behind(self) -> bool:
        """Tell whether the store lacks something: events that are kept, or files that it did not take."""
        return self._spool.waiting or self._refused.waiting or self._lacks_files

    def flush(self) -> None:
        """Try once more to send what is kept, however recent the last attempt was."""
        if self._spool.waiting:
            self.catch_up()

    def catch_up(self) -> None:
        """Open the store, send what was refused and what is kept."""
        with self._lock, contextlib.suppress(AwayError):
            self._next_try_s = 0.0
            self._refused_runs.clear()
            # First, because it is older: the beginning of a run may be among it.
            self._drain(self._connected(), self._refused, LAST_BACKLOG_S)
            self._ready(LAST_BACKLOG_S)

    def known_id(self, reference: str) -> str:
        """Return MLflow's id of a run, or our key of it while the store has not answered."""
        return self._store.run_ids.get(reference, reference) if self._store else reference

    def _ready(self, budget_s: float) -> Store:
        """Return the store when it answers and nothing is kept that comes before."""
        if time.monotonic() < self._next_try_s:
            raise AwayError
        store = self._connected()
        if self._spool.waiting:
            sent = self._drain(store, self._spool, budget_s)
            if self._spool.waiting:
                raise AwayError  # the backlog goes on with the next event
            logging.getLogger(__name__).warning("tracking is back: %d kept events were sent", sent)
        self._warned.discard("away")
        return store

    def _connected(self) -> Store:
        self._store = self._store or self._call(self._connect)
        return self._store

    def _drain(self, store: Store, spool: Spool, budget_s: float) -> int:
        refused: list[Event] = []
        try:
            return self._call(lambda: spool.drain(lambda event: self._apply(store, event, refused), budget_s))
        finally:
            self._keep(self._refused, refused)  # not meanwhile: it may be the spool that is sent

    def _apply(self, store: Store, event: Event, refused: list[Event]) -> str | None:
        try:
            if self._refused_runs.isdisjoint((event.run, event.body.get("parent"))):
                return store.apply(event)
        except Exception as error:
            if not store.refuses(event.kind, error):
                raise
            self._warn(f"refused {event.kind}", f"tracking refused a {event.kind} event{self._kept_at(event.kind)}", error)
        refused.append(event)
        if event.kind == "start":
            self._refused_runs.add(event.run)
        return None

    def _call(self, action: Callable[[], T]) -> T:
        started_s = time.monotonic()
        try:
            return action()
        except Exception as error:  # MLflow, its transports and drivers raise anything; none of it may end a run
            spent_s = time.monotonic() - started_s
            self._next_try_s = time.monotonic() + max(self._retry_s, COST_FACTOR * spent_s)
            self._warn("away", f"tracking is away; events are kept in {self._spool.path}", error)
            raise AwayError from error

    def _keep(self, spool: Spool, events: Sequence[Event]) -> None:
        figures = [event for event in events if event.kind not in FILE_KINDS]
        self._lacks_files = self._lacks_files or len(figures) < len(events)
        try:
            spool.append(figures)
        except OSError as error:
            self._warn("lost", f"tracking events are lost, {spool.path} cannot be written", error)

    def _kept_at(self, kind: str) -> str:
        return "" if kind in FILE_KINDS else f"; such are kept in {self._refused.path}"

    def _warn(self, once: str, text: str, error: Exception) -> None:
        if once not in self._warned:
            self._warned.add(once)
            reason = names.clean(f"{type(error).__name__}: {error}", 400)
            logging.getLogger(__name__).warning("%s (%s)", text, reason)
