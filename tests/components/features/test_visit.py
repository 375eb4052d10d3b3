"""Visits as a store's rows: what is known, what is described on the spot, and what neither is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from numpy.testing import assert_allclose

from components.features.store import FeatureStore, fit_store
from components.features.tables import load_store, save_store
from components.features.visit import Candidate, Resolver, Visit
from components.types import CrmBatch, Field, FieldKind, Schema
from tests.components.features.test_store import CONTEXT, ITEMS, SAMPLES, SCHEMA, USERS, assert_equal

# Columns of `slot_ids_BS`: user, gender, item, genres (2), year, device, moods (2); the rows are listed in test_store.
USER, ITEM = slice(0, 2), slice(2, 6)
PHONE = {"device": "phone", "wait": 10.0, "moods": ["calm"]}


@pytest.fixture(params=["made", "loaded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    made = fit_store(SCHEMA, USERS, ITEMS, CONTEXT, history_length=3, tag_width=2)
    if request.param == "made":
        return made
    save_store(made, str(tmp_path))
    return load_store(str(tmp_path))


def visit(user_id: str | None, *candidates: str | Candidate, **more: Any) -> Visit:
    found = tuple(one if isinstance(one, Candidate) else Candidate(one) for one in candidates)
    return Visit(user_id, more.get("profile", {}), tuple(more.get("history", ())), 0, found, more.get("context", {}))


def batch(store: FeatureStore, asked: Visit) -> CrmBatch:
    resolver = Resolver(store)
    held, columns = resolver.columns(resolver.resolve(asked))
    return held.batch(columns)


def test_known_users_and_items_give_what_samples_give(store: FeatureStore) -> None:
    history = (("i1", 1.0), ("i2", 2.0), ("i3", 3.0), ("i1", 5.0))
    visits = [
        visit("ann", "i1", context=PHONE),
        visit("carl", "i4", history=(("i1", 5.0), ("i4", 4.0)), context={"device": "tablet", "moods": ["sad", "calm"]}),
        visit("bob", "i2", history=history, context={"device": "phone", "wait": 6.0}),
    ]
    for row, asked in enumerate(visits):
        assert_equal(batch(store, asked), store.batch(store.columns(SAMPLES.slice(row, 1))))


def test_many_candidates_give_the_rows_of_as_many_samples(store: FeatureStore) -> None:
    items = [3, 0, 0, 2, 1]  # i1 twice, and in the history too
    samples = pa.table(
        {
            "user_row": pa.array([1] * 5, pa.int32()),
            "item_row": pa.array(items, pa.int32()),
            "history_rows": pa.array([[2, 0]] * 5, pa.list_(pa.int32())),
            "history_ratings": pa.array([[2.0, 5.0]] * 5, pa.list_(pa.float32())),
            **{name: pa.array([value] * 5) for name, value in PHONE.items()},
        }
    )
    asked = visit("bob", *(f"i{row + 1}" for row in items), history=(("i3", 2.0), ("i1", 5.0)), context=PHONE)
    found = batch(store, asked)
    every = {name: getattr(found, name).expand(5, -1) for name in ("history_ids_BL", "history_rating_BL")}  # held once
    assert_equal(replace(found, **every), store.batch(store.columns(samples)))


@pytest.mark.parametrize("user_id", [None, "zoe"])
def test_an_unknown_user_is_one_of_whom_all_is_missing(store: FeatureStore, user_id: str | None) -> None:
    found = batch(store, visit(user_id, "i1"))
    assert found.slot_ids_BS[0, USER].tolist() == [1, 4]
    assert found.numeric_BN[0].tolist() == [0.0] * 5  # age and wait are means, the history is empty


def test_missing_values_are_read_as_from_a_table_on_disk(tmp_path: Path) -> None:
    """The data set has the words "None" and "nan": a missing value must not become one of them."""
    users = pd.DataFrame({"user_id": ["None", "nan", "gap"], "gender": ["None", "nan", None], "age": [1.0, 3.0, None]})
    items = ITEMS.assign(year=["None", "nan", None, None])
    context = {**CONTEXT, "device": pd.Series(["None", "nan"])}
    save_store(
        fit_store(SCHEMA, users.assign(about=None, train_count=[1, 1, 0]), items, context, history_length=3, tag_width=2), str(tmp_path)
    )
    store = load_store(str(tmp_path))
    nothing = pa.table(
        {
            "user_row": pa.array([2], pa.int32()),
            "item_row": pa.array([3], pa.int32()),
            "history_rows": pa.array([[]], pa.list_(pa.int32())),
            "history_ratings": pa.array([[]], pa.list_(pa.float32())),
            "device": pa.array([None], pa.string()),
            "wait": pa.array([None], pa.float64()),
            "moods": pa.array([None], pa.list_(pa.string())),
        }
    )
    expected = store.batch(store.columns(nothing))
    assert expected.slot_ids_BS[0, [0, 1, 2, 5, 6]].tolist() == [slot.unknown_row for slot in store.inputs.slots if slot.width == 1]
    unknown = {"title": "?", "genres": ["Horror"]}
    for asked in (
        visit(None, Candidate("new", unknown)),
        visit("zoe", Candidate("new", {**unknown, "year": None}), context={"wait": None, "device": None, "moods": None}),
        visit(None, "i4", profile={"gender": None, "age": None, "about": None}),
        visit("gap", "i4", profile={"age": None}, context={"moods": []}),
    ):
        assert_equal(batch(store, asked), expected)


def test_a_profile_replaces_field_by_field(store: FeatureStore) -> None:
    known, changed = batch(store, visit("ann", "i1")), batch(store, visit("ann", "i1", profile={"gender": "f"}))
    assert known.slot_ids_BS[0, USER].tolist() == [2, 6]
    assert changed.slot_ids_BS[0, USER].tolist() == [2, 5]
    assert torch.equal(changed.numeric_BN, known.numeric_BN)  # her age is still known
    older = batch(store, visit("ann", "i1", profile={"age": 50}))
    assert torch.equal(older.slot_ids_BS, known.slot_ids_BS)
    assert older.numeric_BN[0, 0] == 2.0  # (50 - 30) / 10
    assert batch(store, visit("ann", "i1", profile={"gender": None})).slot_ids_BS[0, USER].tolist() == [2, 4]
    assert_equal(batch(store, visit("ann", "i1", profile={"about": "loves operas"})), known)


def test_a_described_user_without_an_id_has_the_fields_alone(store: FeatureStore) -> None:
    found = batch(store, visit(None, "i1", profile={"gender": "m", "age": 20}))
    assert found.slot_ids_BS[0, USER].tolist() == [1, 6]
    assert found.numeric_BN[0, 0] == -1.0


def test_a_user_keeps_what_training_counted(store: FeatureStore) -> None:
    resolver = Resolver(store)
    for asked, count in ((visit("ann", "i1"), 2), (visit("ann", "i1", profile={"age": 1}), 2), (visit("zoe", "i1"), 0)):
        held, _ = resolver.columns(resolver.resolve(asked))
        assert held.encoded_users.train_count_R.tolist() == [count]


def test_an_unknown_item_is_what_its_description_says(store: FeatureStore) -> None:
    new = Candidate("new", {"title": "New", "genres": ["War", "Jazz", "Drama"], "year": 1999})
    found = batch(store, visit("ann", "i1", new))
    assert found.slot_ids_BS[:, ITEM].tolist() == [[8, 13, 12, 16], [7, 14, 11, 16]]  # Jazz is unknown, a third genre is cut


def test_a_described_known_item_keeps_what_is_not_described(store: FeatureStore) -> None:
    resolver = Resolver(store)
    resolved = resolver.resolve(visit("ann", Candidate("i1", {"genres": ["War"]}), "i1", Candidate("new", {"year": "2001"})))
    held, columns = resolver.columns(resolved)
    assert held.batch(columns).slot_ids_BS[:, ITEM].tolist() == [[8, 14, 0, 16], [8, 13, 12, 16], [7, 0, 0, 17]]
    assert held.encoded_items.train_count_R.tolist() == [1, 1, 0]
    assert resolved.descriptions["title"].tolist()[0] == "One"
    assert pd.isna(resolved.descriptions["title"].tolist()[1])


def test_a_description_does_not_change_the_history(store: FeatureStore) -> None:
    """The ratings of the past were given to the item as it was."""
    history = (("i1", 5.0), ("i2", 1.0))
    plain, described = (
        batch(store, visit("ann", one, "i2", history=history)) for one in ("i1", Candidate("i1", {"year": "2001", "genres": []}))
    )
    assert torch.equal(plain.history_ids_BL, described.history_ids_BL)
    assert torch.equal(plain.history_rating_BL, described.history_rating_BL)


def test_an_item_neither_known_nor_described_is_nobodys_row(store: FeatureStore) -> None:
    found = batch(store, visit("ann", "new", "i1"))
    assert found.slot_ids_BS[:, ITEM].tolist() == [[7, 0, 0, 15], [8, 13, 12, 16]]


def test_whole_numbers_stay_what_they_are_beside_missing_values() -> None:
    schema = Schema(1.0, 5.0, 3.0, user_fields=(Field("zip", FieldKind.CATEGORICAL),), item_fields=(Field("year", FieldKind.CATEGORICAL),))
    users = pd.DataFrame({"user_id": ["ann"], "zip": [8000], "train_count": [1]})
    items = pd.DataFrame({"item_id": ["i1", "i2"], "year": [1999, 2001], "train_count": [1, 1], "train_rating_mean": [3.0, 3.0]})
    store = fit_store(schema, users, items.assign(title=["One", None]), {}, history_length=2, tag_width=1)
    asked = visit("ann", Candidate("i1", {"title": "Uno"}), Candidate("new", {"title": "New"}))
    assert batch(store, asked).slot_ids_BS[:, 3].tolist() == [9, 8]
    assert batch(store, visit("ann", Candidate("new", {"year": 2001}))).slot_ids_BS[:, 3].tolist() == [10]
    assert batch(store, visit("ann", "i1", profile={"zip": "8000"})).slot_ids_BS[0, 1].item() == 4


def test_a_history_passes_over_items_that_nobody_knows(store: FeatureStore) -> None:
    history = (("gone", 1.0), ("i1", 5.0), ("gone", 2.0), ("i2", 1.0), ("lost", 3.0))
    assert_equal(batch(store, visit("ann", "i3", history=history)), batch(store, visit("ann", "i3", history=history[1:4:2])))


def test_a_long_history_keeps_its_latest_entries(store: FeatureStore) -> None:
    history = (("i3", 5.0), ("i1", 5.0), ("i1", 1.0), ("i2", 2.0), ("i3", 3.0))
    found = batch(store, visit("ann", "i1", "i2", history=history))
    assert found.history_ids_BL.tolist() == [[8, 9, 10]], "one history for both"
    assert_allclose(found.history_rating_BL, [[-0.5, -0.5, 0.25]])


def test_an_empty_history_is_padding(store: FeatureStore) -> None:
    for history in ((), (("gone", 4.0),)):
        found = batch(store, visit("ann", "i1", history=history))
        assert (found.history_ids_BL.tolist(), found.history_rating_BL.tolist()) == ([[0, 0, 0]], [[0.0, 0.0, 0.0]])


def test_what_is_known_can_be_asked(store: FeatureStore) -> None:
    resolver = Resolver(store)
    assert [resolver.knows_user(user) for user in ("ann", "carl", "zoe", "", None)] == [True, True, False, False, False]
    assert [resolver.knows_item(item) for item in ("i1", "i4", "new", "")] == [True, True, False, False]


def test_a_visit_holds_its_own_rows_alone(store: FeatureStore) -> None:
    """A catalogue of millions costs a visit nothing."""
    resolver = Resolver(store)
    resolved = resolver.resolve(visit("ann", "i1", Candidate("new", {"year": "1999"}), history=(("i2", 1.0), ("i2", 1.0), ("i3", 2.0))))
    held, columns = resolver.columns(resolved)
    assert (len(held.encoded_users.ids_RS), len(held.encoded_items.ids_RS)) == (1, 2 + 3)
    assert {name: len(values) for name, values in columns.items() if len(values) != 2} == {"history_rows": 1, "history_ratings": 1}
    assert held.items is store.items, "the tables themselves are shared"
    assert len(store.encoded_items.ids_RS) == 4


def test_a_store_is_left_as_it_was(store: FeatureStore) -> None:
    before = [values.copy() for values in (store.encoded_items.ids_RS, store.encoded_users.numeric_RN)]
    batch(store, visit("ann", Candidate("i1", {"year": "2001"}), profile={"age": 1}))
    assert np.array_equal(store.encoded_items.ids_RS, before[0])
    assert np.array_equal(store.encoded_users.numeric_RN, before[1])
    changed = store.encoded_items.put(np.array([3]), store.encode_items(ITEMS.iloc[[0]]))
    assert changed.train_count_R.tolist() == [1, 1, 1, 1]
    assert store.encoded_items.train_count_R.tolist() == [1, 1, 1, 0]
