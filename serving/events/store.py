"""What a store of user events promises, and how one is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from components.errors import ConfigError, DataError, TandemError

MAX_TIMESTAMP_S = 2**53  # Redis sorts by doubles, which are exact up to here
SQLITE, REDIS = "sqlite:///", ("redis://", "rediss://")
EXPECTED = "expected sqlite:////absolute/path.db, redis://[user:password@]host:port/db or rediss://[user:password@]host:port/db"


class EventConflict(TandemError):  # noqa: N818 - it is the name of an answer, not of a fault
    """An event with this id was stored before, and it says something else."""


class EventStoreError(TandemError):
    """The store is away, full or broken; whether the event was stored is unknown, and appending it again is safe."""


@dataclass(frozen=True)
class Event:
    """One user rated one item."""

    event_id: str
    user_id: str
    item_id: str
    rating: float
    timestamp_s: int

    def __post_init__(self) -> None:
        for name in ("event_id", "user_id", "item_id"):
            if not _is_id(getattr(self, name)):
                raise DataError(
                    f"{name} of an event: expected a text that is not empty and valid Unicode, received {getattr(self, name)!r}"
                )
        if not math.isfinite(self.rating):
            raise DataError(f"rating of event {self.event_id!r}: expected a finite number, received {self.rating}")
        if abs(self.timestamp_s) > MAX_TIMESTAMP_S:
            raise DataError(f"timestamp_s of event {self.event_id!r}: expected seconds within ±2**53, received {self.timestamp_s}")


@dataclass(frozen=True)
class Latest:
    """The end of a user's history."""

    events: tuple[Event, ...]  # by time, then by arrival, oldest first
    count: int  # all events of the user


class EventStore(Protocol):
    """Keeps events; every method may be called from several threads at once."""

    @property
    def shared(self) -> bool:
        """Whether replicas on several nodes see the same events."""
        ...

    def require_durable(self) -> None:
        """Raise ConfigError where an acknowledged event could be lost, EventStoreError where that can't be told now."""
        ...

    def append(self, event: Event) -> bool:
        """Return True once the event is durable, False where this very event was stored before.

        Raises EventConflict where the id is taken by another event, and EventStoreError.
        """
        ...

    def latest(self, user_id: str, limit: int) -> Latest:
        """Return the user's latest events, `limit` at most; raises EventStoreError."""
        ...

    def close(self) -> None:
        """Give back connections; may be called twice."""
        ...


def open_store(uri: str) -> EventStore:
    """Open the store at this address and make what it lacks; raises ConfigError, and EventStoreError for a file that can't be one."""
    if uri.startswith(REDIS):
        from serving.events.redis_store import RedisStore

        return RedisStore(uri)
    if uri.startswith(SQLITE):
        from serving.events.sqlite_store import SqliteStore

        return SqliteStore(uri)
    scheme, mark, _ = uri.partition("://")  # what follows may be a password
    raise ConfigError(f"address of the event store: {EXPECTED}; received {f'the scheme {scheme!r}' if mark else 'no scheme'}")


def check_store(uri: str) -> None:
    """Raise ConfigError for an address that is none or a server that would lose events, EventStoreError where no server answers.

    A file is left to the machine that serves.
    """
    if uri.startswith(SQLITE):
        return
    store = open_store(uri)
    try:
        store.require_durable()
    finally:
        store.close()


def conflict(event: Event) -> EventConflict:
    """Return the error for an id that another event has."""
    return EventConflict(f"event {event.event_id!r}: expected the same content as when it was first stored, received another")


def check_limit(limit: int) -> None:
    """Raise ValueError for a limit that no store understands."""
    if limit < 0:
        raise ValueError(f"expected a limit of 0 events or more, received {limit}")


def _is_id(value: str) -> bool:
    try:
        return bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry
        return False
