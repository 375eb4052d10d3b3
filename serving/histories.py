"""What a user has done so far: the prepared data set's history, then the events that came in since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.features.latest import Histories, Standing
from serving.events.store import EventStore


@dataclass(frozen=True)
class History:
    """A user's past as the arms read it."""

    latest: tuple[tuple[str, float], ...]  # item id and rating, oldest first
    earlier_count: int  # all interactions, also those before `latest`


class UserHistories:
    """Joins stored events to the histories that came with the model."""

    def __init__(
        self, user_row: Callable[[str], int], item_ids: NDArray[np.object_], prepared: Histories, events: EventStore, length: int
    ) -> None:
        """`user_row` gives a user's row, -1 for a stranger; `length` is how many interactions the arms read."""
        self._user_row, self._item_ids = user_row, item_ids
        self._prepared, self._events, self._length = prepared, events, length

    def prepared(self, user_id: str) -> History:
        """Return the history of a user without the events since."""
        known = self._prepared.of(self._user_row(user_id))
        return History((), 0) if known is None else History(tuple(self._entries(known)[-self._length :]), known.earlier_count)

    def of(self, user_id: str) -> History:
        """Return the history of a user, empty for one who never did anything; waits for the store of events."""
        stored = self._events.latest(user_id, self._length)
        known = self._prepared.of(self._user_row(user_id))
        if known is None:
            return History(tuple((event.item_id, event.rating) for event in stored.events), stored.count)
        before = self._entries(known)
        seen = {item for item, _ in before}
        # A model trained on exported events has them in its own histories: they count once.
        again = [event.timestamp_s <= known.until_s and event.item_id in seen for event in stored.events]
        since = [(event.item_id, event.rating) for event, counted in zip(stored.events, again, strict=True) if not counted]
        older = stored.count - len(stored.events)  # before all of these: exported too where the first of these was
        counted_twice = sum(again) + (older if again and again[0] else 0)
        latest = (before + since)[-self._length :]
        return History(tuple(latest), known.earlier_count + stored.count - counted_twice)

    def _entries(self, known: Standing) -> list[tuple[str, float]]:
        return list(zip(self._item_ids[known.item_rows].tolist(), known.ratings.tolist(), strict=True))


def given(entries: list[tuple[str, float, int | None]], length: int) -> History:
    """Return a history that came with a request, ordered by time where every entry has one."""
    if all(time is not None for _, _, time in entries):
        order = np.argsort(np.array([time for _, _, time in entries], np.int64), kind="stable")
        entries = [entries[row] for row in order]
    return History(tuple((item, rating) for item, rating, _ in entries[-length:]), len(entries))
