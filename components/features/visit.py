"""Visits: one user and the items to score, as a request names them: known to the data set, or described on the spot."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.errors import FieldError
from components.features.history import pad_left
from components.features.store import Encoded, FeatureStore
from components.types import Field, FieldKind

Fields = Mapping[str, Any]
TITLE = Field("title", FieldKind.TEXT)


class Candidate(NamedTuple):  # hundreds a visit: a tuple is made in a third of a dataclass's time
    """An item to score; what is described of it takes the place of what is known."""

    item_id: str
    description: Fields = {}  # noqa: RUF012 - a mapping, which nobody writes to


@dataclass(frozen=True)
class Visit:
    """One user and the items to score; picklable, and the same to every arm."""

    user_id: str | None
    profile: Fields  # described fields of the user, in the place of known ones
    history: tuple[tuple[str, float], ...]  # item id and rating, oldest first; items that nobody knows are passed over
    earlier_count: int  # all earlier interactions of the user, also those that `history` leaves out
    candidates: tuple[Candidate, ...]
    context: Fields = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """A visit as rows of the store; -1 stands for what the store does not know."""

    user_row: int
    profile: pd.DataFrame | None  # the user's row as described; None where the store's holds
    item_rows: NDArray[np.int32]  # [C]
    described: NDArray[np.int64]  # positions of candidates with a description or without a row
    descriptions: pd.DataFrame  # a row for each of `described`
    history_rows: NDArray[np.int32]  # [H], oldest first
    history_ratings: NDArray[np.float32]  # [H]
    earlier_count: int
    context: pd.DataFrame  # one row


class Resolver:
    """Finds the users and items of visits in a store."""

    def __init__(self, store: FeatureStore) -> None:
        self._store, schema = store, store.schema
        self._user_rows = {user: row for row, user in enumerate(store.users["user_id"])}
        self._item_rows = {item: row for row, item in enumerate(store.items["item_id"])}
        self._item_fields = (TITLE, *schema.item_fields) if "title" in store.items else schema.item_fields
        self._stranger = store.encode_users(_table([_row("user_id", None, schema.user_fields, {}, None)]))
        self._no_descriptions = pd.DataFrame(columns=pd.Index(["item_id", *(field.name for field in self._item_fields)]))
        self._no_context = _table([_row("", None, schema.context_fields, {}, None)])
        self._no_context_encoded = store.encode_context(self._no_context)

    def knows_user(self, user_id: str | None) -> bool:
        return user_id in self._user_rows

    def user_row(self, user_id: str) -> int:
        """Return a user's row, -1 for a stranger."""
        return self._user_rows.get(user_id, -1)

    def knows_item(self, item_id: str) -> bool:
        return item_id in self._item_rows

    def item_row(self, item_id: str) -> int:
        """Return an item's row, -1 for one that nobody knows."""
        return self._item_rows.get(item_id, -1)

    def described(self, candidate: Candidate, where: str) -> dict[str, Any]:
        """Return a candidate's description as the item table holds it; raises FieldError below `where`."""
        return checked(candidate.description, self._item_fields, where)

    def resolve(self, visit: Visit) -> Resolved:
        """Look up users, items and history; raises FieldError for a described field that the data set lacks or can't hold."""
        store, schema = self._store, self._store.schema
        user_row = self._user_rows.get(visit.user_id or "", -1)
        profile = None
        if visit.profile:
            given = checked(visit.profile, schema.user_fields, "user.profile")
            known = store.users.iloc[user_row].to_dict() if user_row >= 0 else None
            profile = _table([_row("user_id", visit.user_id, schema.user_fields, given, known)])
        item_rows = np.array([self._item_rows.get(candidate.item_id, -1) for candidate in visit.candidates], np.int32)
        # An item that is neither known nor described is one of which nothing is known, never another item's row.
        described = [position for position, candidate in enumerate(visit.candidates) if candidate.description or item_rows[position] < 0]
        found = [(self._item_rows[item], rating) for item, rating in visit.history if item in self._item_rows]
        return Resolved(
            user_row,
            profile,
            item_rows,
            np.array(described, np.int64),
            self._described(visit.candidates, described, item_rows),
            np.array([row for row, _ in found], np.int32),
            np.array([rating for _, rating in found], np.float32),
            visit.earlier_count,
            self._context(visit.context),
        )

    def columns(self, visit: Resolved) -> tuple[FeatureStore, dict[str, NDArray]]:
        """Return the visit's candidates as `FeatureStore.batch` reads them, and the store of this visit's rows to read them with."""
        store, count = self._store, len(visit.item_rows)
        items = store.encoded_items.take(np.r_[np.maximum(visit.item_rows, 0), visit.history_rows])
        if len(visit.described):
            items = items.put(visit.described, store.encode_items(visit.descriptions))
        length = len(visit.history_rows)
        offsets, history = np.array([0, length]), np.arange(count, count + length)
        context = self._no_context_encoded if visit.context is self._no_context else store.encode_context(visit.context)
        repeated = {"user_row": np.zeros(1, np.int32), "context_ids": context.ids_RS, "context_numeric": context.numeric_RN}
        return store.holding(self._user(visit), items), {
            **{name: np.broadcast_to(values, (count, *values.shape[1:])) for name, values in repeated.items()},
            "item_row": np.arange(count),
            "history_rows": pad_left(history, offsets, store.history_length, -1),
            "history_ratings": pad_left(visit.history_ratings, offsets, store.history_length, 0.0),
        }

    def _user(self, visit: Resolved) -> Encoded:
        if visit.profile is not None:
            return self._store.encode_users(visit.profile)
        if visit.user_row < 0:
            return self._stranger
        return self._store.encoded_users.take(np.array([visit.user_row], np.int32))

    def _described(self, candidates: Sequence[Candidate], positions: Sequence[int], item_rows: NDArray[np.int32]) -> pd.DataFrame:
        rows: list[dict[str, Any]] = []
        for position in positions:
            candidate, row = candidates[position], int(item_rows[position])
            given = self.described(candidate, f"candidates.{position}")
            known = self._store.items.iloc[row].to_dict() if row >= 0 else None
            rows.append(_row("item_id", candidate.item_id, self._item_fields, given, known))
        return _table(rows) if rows else self._no_descriptions

    def _context(self, given: Fields) -> pd.DataFrame:
        fields = self._store.schema.context_fields
        return _table([_row("", None, fields, checked(given, fields, "context"), None)]) if given else self._no_context


def checked(given: Fields, fields: Sequence[Field], where: str) -> dict[str, Any]:
    """Return described fields as the tables hold them; raises FieldError naming the first that the data set lacks or can't hold."""
    if not given:
        return {}
    kinds = {field.name: field.kind for field in fields}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in kinds:
            allowed = ", ".join(kinds) or "no field at all"
            raise FieldError(where, f"expected fields of the data set ({allowed}), got another one", name)
        found[name] = _value(value, kinds[name], f"{where}.{name}")
    return found


def _value(value: Any, kind: FieldKind, where: str) -> Any:
    plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if value is None:
        return [] if kind is FieldKind.TAGS else float("nan")
    if kind is FieldKind.TAGS:
        if not isinstance(value, (list, tuple)) or not all(isinstance(tag, str) and _is_unicode(tag) for tag in value):
            raise FieldError(where, "expected a list of texts")
        return list(value)
    if kind is FieldKind.NUMERIC:
        if not plain or isinstance(value, str) or not abs(value) <= sys.float_info.max:
            raise FieldError(where, "expected a finite number")
        return float(value)
    if not plain or not _is_unicode(str(value)):
        raise FieldError(where, "expected a text or a number")
    return str(value)


def _is_unicode(text: str) -> bool:
    try:
        return text.encode() is not None
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can carry and no table can
        return False


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    # As objects: beside a missing value a column of whole numbers would become one of floats, and 1999 the unknown "1999.0".
    return pd.DataFrame(rows, dtype=object)


def _row(key: str, identity: str | None, fields: Sequence[Field], given: Fields, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Lay described fields over what is known of a row, what training counted included."""
    # nan, as in a table read from disk: the vocabulary then meets the same missing value
    empty = {field.name: [] if field.kind is FieldKind.TAGS else float("nan") for field in fields}
    row = {key: identity, **empty, "train_count": 0, "train_rating_mean": 0.0}
    return {**row, **{name: value for name, value in (known or {}).items() if name in row}, **given}
