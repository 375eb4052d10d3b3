"""What every store of events promises, against a SQLite file and a real Redis."""

from __future__ import annotations

import itertools
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.errors import ConfigError, DataError, TandemError
from serving.events import EventConflict, EventStore, EventStoreError, Latest, open_store
from tests.serving.events.servers import appender, event, kill_when_busy


def test_events_come_back_by_time_however_they_arrived(store: EventStore) -> None:
    events = [event(f"e{time_s}", timestamp_s=time_s) for time_s in (-5, 0, 9, 10, 100, 2_000_000_000, 2**53)]
    for one in random.Random(1).sample(events, len(events)):
        store.append(one)
    assert store.latest("u1", 10) == Latest(tuple(events), 7)


def test_events_of_one_second_come_back_as_they_arrived(store: EventStore) -> None:
    ids = [f"e{number}" for number in random.Random(2).sample(range(100), 12)]
    for event_id in ids:
        store.append(event(event_id))
    assert [one.event_id for one in store.latest("u1", 20).events] == ids
    assert [one.event_id for one in store.latest("u1", 3).events] == ids[-3:]


def test_the_limit_keeps_the_latest_and_the_count_is_of_all(store: EventStore) -> None:
    for time_s in range(5):
        store.append(event(f"e{time_s}", timestamp_s=time_s))
    store.append(event("another user's", user_id="u2"))
    for limit in range(7):
        found = store.latest("u1", limit)
        assert [one.timestamp_s for one in found.events] == list(range(5))[max(5 - limit, 0) :]
        assert found.count == 5
    with pytest.raises(ValueError, match="expected a limit of 0 events or more, received -1"):
        store.latest("u1", -1)


def test_an_event_that_is_sent_again_is_stored_once(store: EventStore) -> None:
    assert [store.append(event(rating=rating)) for rating in (4.0, 4, 4.0)] == [True, False, False]
    assert store.append(event("zero", rating=-0.0))
    assert not store.append(event("zero", rating=0.0))
    assert store.latest("u1", 10) == Latest((event(rating=4.0), event("zero", rating=0.0)), 2)


def test_another_event_under_a_known_id_is_a_conflict_and_changes_nothing(store: EventStore) -> None:
    store.append(event())
    for other in (event(user_id="u2"), event(item_id="i2"), event(rating=1.0), event(timestamp_s=101)):
        with pytest.raises(EventConflict, match="event 'e1': expected the same content as when it was first stored"):
            store.append(other)
    assert store.latest("u1", 10) == Latest((event(),), 1)
    assert store.latest("u2", 10) == Latest((), 0)
    assert not store.append(event())


def test_an_unknown_user_has_no_events(store: EventStore) -> None:
    assert store.latest("nobody", 10) == Latest((), 0)


def test_unusual_ids_and_numbers_come_back_as_they_were(store: EventStore) -> None:
    ids = [
        "ünï 𝔘ser",
        " spaces ",
        "a:b:{c}:d",
        "{events}",
        "x" * 128,
        "nul\0nul",
        "nul",
        "'; DROP TABLE events; --",
        "%00*",
        "e\u0301",
        "é",
        "\n",
    ]
    events = [event(one, one, one, rating, 7) for one, rating in zip(ids, itertools.cycle((0.1, 1e-300, -3.0)), strict=False)]
    assert [store.append(one) for one in events] == [True] * len(events)
    assert [store.latest(one.user_id, 5) for one in events] == [Latest((one,), 1) for one in events]


@pytest.mark.parametrize(
    ("field", "value"), [("event_id", ""), ("user_id", "\ud800"), ("item_id", ""), ("rating", float("nan")), ("timestamp_s", 2**53 + 1)]
)
def test_an_event_that_no_store_can_keep_is_refused_before(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"{field} of .*expected .*received"):
        event(**{field: value})


def test_eight_threads_append_and_read_at_once(store: EventStore) -> None:
    def work(thread: int) -> list[bool]:
        added = []
        for number in range(12):
            added.append(store.append(event(f"shared{number}", "shared", timestamp_s=number)))
            store.append(event(f"{thread}-{number}", f"u{thread}", timestamp_s=number))
            assert store.latest(f"u{thread}", 1).count == number + 1
        return added

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(work, range(8)))
    assert [sum(column) for column in zip(*added, strict=True)] == [1] * 12
    assert [one.timestamp_s for one in store.latest("shared", 100).events] == list(range(12))
    for thread in range(8):
        assert store.latest(f"u{thread}", 100).events == tuple(
            event(f"{thread}-{number}", f"u{thread}", timestamp_s=number) for number in range(12)
        )


def test_what_a_killed_process_had_acknowledged_is_there(uri: str) -> None:
    acknowledged = kill_when_busy(appender(uri))
    assert len(acknowledged) >= 20
    store = open_store(uri)
    found = [one for user in range(3) for one in store.latest(f"u{user}", 1_000_000).events]
    assert set(acknowledged) <= {one.timestamp_s for one in found}
    assert len(found) <= len(acknowledged) + 1  # one may have been stored that nobody heard of
    assert [store.append(one) for one in found] == [False] * len(found)
    store.close()


def test_a_store_can_be_opened_again_and_closed_twice(uri: str) -> None:
    first = open_store(uri)
    first.append(event())
    first.close()
    first.close()
    second = open_store(uri)
    assert second.latest("u1", 1) == Latest((event(),), 1)
    assert second.shared == uri.startswith("redis")
    second.close()


@pytest.mark.parametrize(
    ("address", "received"),
    [
        ("", "no scheme"),
        ("/srv/events.db", "no scheme"),
        ("sqlite:///events.db", "no absolute path"),
        ("sqlite:////srv/events.db?mode=ro", "no absolute path"),
        ("postgresql://me:hidden@host/db", "the scheme 'postgresql'"),
        ("redis://:hidden@/0", "cannot be read"),
        ("redis://me:hidden#x@host:1/0", "cannot be read"),
        ("redis://me:hidden/x@host:1/0", "cannot be read"),
        ("redis://me:hidden@host:port/0", "cannot be read"),
        ("redis://me:hidden@host:1/name", "cannot be read"),
        ("redis://me:hidden@host:1/0?socket_timeout=900", "cannot be read"),
    ],
)
def test_an_address_that_is_none_is_refused_with_what_is_expected(address: str, received: str) -> None:
    with pytest.raises(ConfigError, match=r"expected sqlite:////absolute/path\.db, redis://") as caught:
        open_store(address)
    assert received in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_the_errors_survive_a_trip_between_processes() -> None:
    for error in (EventConflict("a"), EventStoreError("b")):
        again = pickle.loads(pickle.dumps(error))
        assert isinstance(again, TandemError)
        assert (type(again), str(again)) == (type(error), str(error))
