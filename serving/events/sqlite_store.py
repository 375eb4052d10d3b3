"""Events in one SQLite file, for the processes of one node."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from components.errors import ConfigError
from serving.events.store import EXPECTED, SQLITE, Event, EventStoreError, Latest, check_limit, conflict

BUSY_S = 5.0  # the longest wait for other writers
LOOK_S = (0.0005, 0.0015)  # between two looks whether they are done
SCHEMA = """
    CREATE TABLE IF NOT EXISTS events (
        arrival INTEGER PRIMARY KEY,
        event_id TEXT NOT NULL UNIQUE,
        user_id TEXT NOT NULL,
        item_id TEXT NOT NULL,
        rating REAL NOT NULL,
        timestamp_s INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS events_by_user ON events (user_id, timestamp_s, arrival);
    CREATE TABLE IF NOT EXISTS counts (user_id TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TRIGGER IF NOT EXISTS count_event AFTER INSERT ON events BEGIN
        INSERT INTO counts VALUES (new.user_id, 1) ON CONFLICT (user_id) DO UPDATE SET count = count + 1;
    END;
    INSERT INTO counts SELECT user_id, COUNT(*) FROM events WHERE NOT EXISTS (SELECT 1 FROM counts) GROUP BY user_id;
"""
COLUMNS = "event_id, user_id, item_id, rating, timestamp_s"
INSERT = f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING"
FIND = f"SELECT {COLUMNS} FROM events WHERE event_id = ?"
COUNT = "SELECT count FROM counts WHERE user_id = ?"
LATEST = f"SELECT {COLUMNS} FROM events WHERE user_id = ? ORDER BY timestamp_s DESC, arrival DESC LIMIT ?"


class SqliteStore:
    """Each call has a connection of its own, so that no read waits for the fsync of a write.

    A trigger counts each user's events in the transaction that appends, whichever version of this class does.
    WAL with synchronous=FULL: an event that was acknowledged survives a crash of the process and of the machine.
    """

    shared = False

    def __init__(self, uri: str) -> None:
        path = uri.removeprefix(SQLITE)
        if not path.startswith("/") or "?" in path:
            raise ConfigError(f"address of the event store: {EXPECTED}; received {uri!r}, which is no absolute path")
        self._path, self._closed = Path(path), False
        self._idle: deque[sqlite3.Connection] = deque()
        self._writer = threading.Lock()  # threads wait here without looking at the file again and again
        with self._reporting("opening"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._prepare()
            self._file = self._path.stat()

    def require_durable(self) -> None:
        """Its file was opened so."""

    def append(self, event: Event) -> bool:
        with self._writing(), self._connection("append") as connection:
            _begin(connection)
            stored = connection.execute(INSERT, astuple(event)).rowcount == 1
            same = stored or Event(*connection.execute(FIND, (event.event_id,)).fetchone()) == event
            connection.execute("COMMIT")
        if not same:
            raise conflict(event)
        return stored

    def latest(self, user_id: str, limit: int) -> Latest:
        check_limit(limit)
        with self._connection("reading") as connection:
            connection.execute("BEGIN")  # both queries see the same moment
            (count,) = connection.execute(COUNT, (user_id,)).fetchone() or (0,)
            rows = connection.execute(LATEST, (user_id, limit)).fetchall()
            connection.execute("COMMIT")
        return Latest(tuple(Event(*row) for row in reversed(rows)), count)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().close()

    def _prepare(self) -> None:
        connection = self._connect()
        try:
            (mode,) = _patiently(connection, "PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise ConfigError(f"{self._name}: expected a file system where SQLite can keep a WAL, received journal mode {mode!r}")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    @contextlib.contextmanager
    def _connection(self, action: str) -> Iterator[sqlite3.Connection]:
        """Lend a connection; one that failed is closed, which rolls back what it began."""
        with self._reporting(action):
            if self._closed:
                raise EventStoreError(f"{self._name}: {action} failed: the store is closed")
            if not os.path.samestat(self._path.stat(), self._file):  # SQLite itself goes on with a file that was removed
                raise EventStoreError(f"{self._name}: {action} failed: the file was replaced")
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
            if self._closed:
                self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if not self._writer.acquire(timeout=BUSY_S):
            raise EventStoreError(f"{self._name}: append failed: other appends have taken {BUSY_S:g} s")
        try:
            yield
        finally:
            self._writer.release()

    @contextlib.contextmanager
    def _reporting(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EventStoreError(f"{self._name}: {action} failed: {type(error).__name__}: {error}") from error

    @property
    def _name(self) -> str:
        return f"event store {SQLITE}{self._path}"


def _begin(connection: sqlite3.Connection) -> None:
    """Take the write lock soon after it is free; SQLite itself sleeps up to 100 ms between looks, and busy writers starve it."""
    connection.execute("PRAGMA busy_timeout=0")
    _patiently(connection, "BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA busy_timeout={BUSY_S * 1000:.0f}")


def _patiently(connection: sqlite3.Connection, statement: str) -> sqlite3.Cursor:
    """Execute a statement for which SQLite does not wait by itself while the file is locked."""
    until_s = time.monotonic() + BUSY_S
    while True:
        try:
            return connection.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
        time.sleep(random.uniform(*LOOK_S))
