"""The SQLite store: several processes, a full disk, a file that is gone."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serving.events import EventStoreError, Latest, open_store
from serving.events import sqlite_store as module
from serving.events.sqlite_store import SqliteStore
from tests.serving.events.servers import appender, event, kill_when_busy

FULL_DISK = """
import resource, sys
from serving.events import Event, EventStoreError, open_store

store = open_store(sys.argv[1])
events = [Event(f"e{number}", "u", "i" * 1000, 1.0, number) for number in range(200)]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
stored, errors = 0, []
for event in events:
    try:
        stored += store.append(event)
    except EventStoreError as error:
        errors.append(str(error))
assert 5 < stored < 195, stored
assert len(errors) == 200 - stored
assert store.latest("u", 1).count == stored
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert sum(store.append(event) for event in events) == 200 - stored
assert store.latest("u", 1000).events == tuple(events)
print(errors[0])
"""


def test_two_processes_open_a_new_file_and_append_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/folders/events.db"
    processes = [appender(uri, prefix) for prefix in "ab"]
    acknowledged = [kill_when_busy(process) for process in processes]
    store = open_store(uri)
    ids = {one.event_id for user in range(3) for one in store.latest(f"u{user}", 1_000_000).events}
    assert {f"{prefix}{number}" for prefix, numbers in zip("ab", acknowledged, strict=True) for number in numbers} <= ids
    store.close()


def test_threads_that_open_one_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            store = open_store(f"sqlite:///{tmp_path}/events.db")
            store.append(event(f"e{number}"))
            store.close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert open_store(f"sqlite:///{tmp_path}/events.db").latest("u1", 1).count == 8


def test_a_full_disk_is_an_error_and_the_store_goes_on_when_there_is_room(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/events.db"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, uri], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"event store {uri}: append failed: OperationalError: ")


def test_reads_do_not_wait_for_a_writer_and_appends_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.2)
    store = SqliteStore(f"sqlite:///{tmp_path}/events.db")
    store.append(event())
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert store.latest("u1", 1) == Latest((event(),), 1)
        started_s = time.monotonic()
        with pytest.raises(EventStoreError, match="append failed: OperationalError: database is locked"):
            store.append(event("e2"))
        assert time.monotonic() - started_s < 3
        other.execute("ROLLBACK")
    assert store.append(event("e2"))
    with store._writing(), pytest.raises(EventStoreError, match=r"other appends have taken 0\.2 s"):
        store.append(event("e3"))
    store.close()


def test_each_commit_is_synchronous_and_in_a_wal(tmp_path: Path) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/events.db")
    for _ in range(2):
        with store._connection("test") as connection, store._connection("test") as another:
            for one in (connection, another):
                assert one.execute("PRAGMA journal_mode").fetchone() == ("wal",)
                assert one.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_file_that_is_removed_replaced_or_closed_acknowledges_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    store = open_store(f"sqlite:///{path}")
    kept = path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(EventStoreError, match="append failed: FileNotFoundError"):
        store.append(event())
    path.touch()
    with pytest.raises(EventStoreError, match="reading failed: the file was replaced"):
        store.latest("u1", 1)
    kept.replace(path)
    assert store.latest("u1", 1).count == 0
    store.close()
    with pytest.raises(EventStoreError, match="reading failed: the store is closed"):
        store.latest("u1", 1)


def test_a_place_that_cannot_hold_a_store_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"this is no database " * 100)
    for path in (tmp_path / "file", tmp_path / "file" / "events.db", tmp_path):
        with pytest.raises(EventStoreError, match=f"event store sqlite:///{path}: opening failed: "):
            open_store(f"sqlite:///{path}")


def test_a_file_of_the_version_that_did_not_count_is_counted_once(tmp_path: Path) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/events.db")
    for number in range(5):
        store.append(event(f"e{number}", f"u{number % 2}"))
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as older:
        older.executescript("DROP TRIGGER count_event; DROP TABLE counts;")
    for _ in range(2):
        store = SqliteStore(f"sqlite:///{tmp_path}/events.db")
        assert [store.latest(user, 1).count for user in ("u0", "u1", "u2")] == [3, 2, 0]
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as older:  # as a process that was not replaced yet
        older.execute(module.INSERT, ("e9", "u2", "i", 1.0, 1))
        older.commit()
    assert not store.append(event("e0", "u0"))
    assert [store.latest(user, 1).count for user in ("u0", "u1", "u2")] == [3, 2, 1]


def test_counting_a_long_history_takes_no_longer(tmp_path: Path) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/events.db")
    store.append(event())
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as file:
        (plan,) = (row[-1] for row in file.execute(f"EXPLAIN QUERY PLAN {module.COUNT}", ("u1",)))
    assert plan == "SEARCH counts USING PRIMARY KEY (user_id=?)"
