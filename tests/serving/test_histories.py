"""A prepared history and the events since, joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from components.features.latest import Histories
from serving.events.store import Event, Latest
from serving.histories import History, UserHistories, given

USERS = {"ann": 0, "bob": 1}
ITEMS = np.array(["a", "b", "c", "d"], object)
# Ann rated seven items, the last ones b and a, the very last at 100 s; of Bob there is no sample.
PREPARED = Histories(
    pa.table(
        {
            "user_row": [0],
            "history_rows": pa.array([[1, 0]], pa.list_(pa.int32())),
            "history_ratings": pa.array([[2.0, 5.0]], pa.list_(pa.float32())),
            "earlier_count": [7],
            "until_s": [100],
        }
    )
)
Happened = tuple[str, float, int]


class Events:
    """Keeps events of one user, as a store of events does: by time."""

    shared = True

    def __init__(self, user_id: str, happened: Sequence[Happened]) -> None:
        self._user_id = user_id
        self._events = [Event(f"e{number}", user_id, *one) for number, one in enumerate(sorted(happened, key=lambda one: one[2]))]

    def append(self, event: Event) -> bool:
        raise AssertionError("nobody stores anything here")

    def latest(self, user_id: str, limit: int) -> Latest:
        if user_id != self._user_id:
            return Latest((), 0)
        return Latest(tuple(self._events[len(self._events) - min(limit, len(self._events)) :]), len(self._events))

    def require_durable(self) -> None: ...

    def close(self) -> None: ...


def user_row(user_id: str) -> int:
    return USERS.get(user_id, -1)


def history(user_id: str, happened: Sequence[Happened] = (), length: int = 4) -> History:
    return UserHistories(user_row, ITEMS, PREPARED, Events(user_id, happened), length).of(user_id)


def test_without_events_the_prepared_history_stands() -> None:
    assert history("ann") == History((("b", 2.0), ("a", 5.0)), 7)


def test_events_follow_the_prepared_history_in_their_order() -> None:
    assert history("ann", [("d", 1.0, 300), ("c", 4.0, 200)]) == History((("b", 2.0), ("a", 5.0), ("c", 4.0), ("d", 1.0)), 9)


def test_the_latest_are_kept_and_all_are_counted() -> None:
    events = [("c", float(number), 200 + number) for number in range(1, 4)]
    assert history("ann", events, length=3) == History((("c", 1.0), ("c", 2.0), ("c", 3.0)), 10)
    assert history("ann", events[:2], length=3) == History((("a", 5.0), ("c", 1.0), ("c", 2.0)), 9)


def test_an_item_that_is_rated_again_is_there_twice() -> None:
    assert history("ann", [("a", 1.0, 101)]) == History((("b", 2.0), ("a", 5.0), ("a", 1.0)), 8)


@pytest.mark.parametrize("time_s", [90, 100])
def test_an_event_that_the_model_was_trained_on_counts_once(time_s: int) -> None:
    assert history("ann", [("a", 5.0, time_s), ("c", 3.0, 101)]) == History((("b", 2.0), ("a", 5.0), ("c", 3.0)), 8)


def test_an_event_that_came_late_counts() -> None:
    """Its time is before the last prepared interaction, but the prepared history does not show it."""
    assert history("ann", [("c", 3.0, 95)]) == History((("b", 2.0), ("a", 5.0), ("c", 3.0)), 8)


def test_trained_events_beyond_those_read_are_not_counted_again() -> None:
    """All seven interactions of Ann were events once; five of them are older than what is read."""
    exported = [*(("d", 1.0, 10 + number) for number in range(5)), ("b", 2.0, 99), ("a", 5.0, 100)]
    assert history("ann", exported, length=2) == History((("b", 2.0), ("a", 5.0)), 7)
    assert history("ann", [*exported, ("c", 3.0, 101)], length=2) == History((("a", 5.0), ("c", 3.0)), 8)


def test_new_events_beyond_those_read_are_counted() -> None:
    events = [("c", 3.0, 200 + number) for number in range(10)]
    assert history("ann", events, length=2) == History((("c", 3.0), ("c", 3.0)), 17)


@pytest.mark.parametrize("user_id", ["bob", "nobody knows me"])
def test_a_user_without_samples_has_the_events_alone(user_id: str) -> None:
    assert history(user_id) == History((), 0)
    events = [("c", 3.0, 5), ("not in the catalogue", 1.0, 6), ("a", 2.0, 7)]
    assert history(user_id, events, length=2) == History((("not in the catalogue", 1.0), ("a", 2.0)), 3)


def test_events_of_another_user_are_not_mixed_in() -> None:
    found = UserHistories(user_row, ITEMS, PREPARED, Events("ann", [("c", 3.0, 200)]), 4).of("bob")
    assert found == History((), 0)


def test_without_the_store_of_events_the_prepared_history_is_left() -> None:
    histories = UserHistories(user_row, ITEMS, PREPARED, Events("ann", [("d", 1.0, 300)]), 4)
    assert histories.prepared("ann") == History((("b", 2.0), ("a", 5.0)), 7)
    assert histories.prepared("bob") == histories.prepared("nobody knows me") == History((), 0)


def test_ids_and_ratings_are_plain_values() -> None:
    """They cross process borders and become JSON."""
    (item, rating), *_ = history("ann").latest
    assert (type(item), type(rating)) == (str, float)


def test_a_history_that_was_sent_is_ordered_by_time_where_every_entry_has_one() -> None:
    entries = [("c", 3.0, 30), ("a", 1.0, 10), ("x", 1.5, 10), ("b", 2.0, 20)]
    assert given(entries, 10) == History((("a", 1.0), ("x", 1.5), ("b", 2.0), ("c", 3.0)), 4)


def test_a_history_with_a_time_missing_stays_as_it_was_sent() -> None:
    assert given([("c", 3.0, 30), ("a", 1.0, None), ("b", 2.0, 20)], 10) == History((("c", 3.0), ("a", 1.0), ("b", 2.0)), 3)


def test_a_long_history_keeps_its_end_and_its_count() -> None:
    assert given([("c", 3.0, 30), ("a", 1.0, 10), ("b", 2.0, 20)], 2) == History((("b", 2.0), ("c", 3.0)), 3)


def test_an_empty_history_is_one() -> None:
    assert given([], 5) == History((), 0)
