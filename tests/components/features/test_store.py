"""Columns to a CrmBatch, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from components.features.store import FeatureStore, encode_tags, fit_store, history_numbers
from components.features.tables import load_store, save_store
from components.features.vocabulary import Vocabulary
from components.types import CrmBatch, Field, FieldKind, Schema, Slot

SCHEMA = Schema(
    rating_min=1.0,
    rating_max=5.0,
    positive_above=3.0,
    user_fields=(Field("gender", FieldKind.CATEGORICAL), Field("age", FieldKind.NUMERIC), Field("about", FieldKind.TEXT)),
    item_fields=(Field("genres", FieldKind.TAGS), Field("year", FieldKind.CATEGORICAL)),
    context_fields=(Field("device", FieldKind.CATEGORICAL), Field("wait", FieldKind.NUMERIC), Field("moods", FieldKind.TAGS)),
)
# Carl and i4 were not seen in training.
USERS = pd.DataFrame(
    {"user_id": ["ann", "bob", "carl"], "gender": ["m", "f", "m"], "age": [20.0, 40.0, 90.0], "about": ["x", "y", None]}
).assign(train_count=[2, 1, 0])
ITEMS = pd.DataFrame(
    {
        "item_id": ["i1", "i2", "i3", "i4"],
        "title": ["One", "Two", "Three", "Four"],
        "genres": [["Drama", "Comedy", "War"], [], ["Comedy"], ["Horror"]],
        "year": ["1999", None, "2001", "1950"],
        "train_count": [1, 1, 1, 0],
        "train_rating_mean": [3.0, 4.0, 2.0, 3.0],
    }
)
CONTEXT = {"device": pd.Series(["phone"]), "wait": pd.Series([4.0, 8.0]), "moods": pd.Series(["calm", None])}
# Embedding rows, padding 0 first: user_id 1 to 3, gender 4 to 6, item_id 7 to 10, genres 11 to 14, year 15 to 17, device 18 and 19,
# moods 20 and 21; the first of each range stands for the unknown.
SAMPLES = pa.table(
    {
        "user_row": pa.array([0, 2, 1], pa.int32()),
        "item_row": pa.array([0, 3, 1], pa.int32()),
        "history_rows": pa.array([[], [0, 3], [0, 1, 2, 0]], pa.list_(pa.int32())),
        "history_ratings": pa.array([[], [5.0, 4.0], [1.0, 2.0, 3.0, 5.0]], pa.list_(pa.float32())),
        "device": ["phone", "tablet", "phone"],
        "wait": [10.0, None, 6.0],
        "moods": pa.array([["calm"], ["sad", "calm"], None], pa.list_(pa.string())),
    }
)


@pytest.fixture
def store() -> FeatureStore:
    return fit_store(SCHEMA, USERS, ITEMS, CONTEXT, history_length=3, tag_width=2)


def batch(store: FeatureStore, samples: pa.Table = SAMPLES) -> CrmBatch:
    return store.batch(store.columns(samples))


def assert_equal(one: CrmBatch, other: CrmBatch) -> None:
    for name in ("slot_ids_BS", "numeric_BN", "history_ids_BL", "history_rating_BL"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_ids_fields_and_tags_become_rows_of_one_embedding_table(store: FeatureStore) -> None:
    #    user gender item genres(2) year device moods(2)
    assert batch(store).slot_ids_BS.tolist() == [
        [2, 6, 8, 13, 12, 16, 19, 21, 0],  # Drama and Comedy are kept, War is one too many
        [1, 6, 7, 11, 0, 15, 18, 20, 21],  # unknown user, item, genre, year, device and mood
        [3, 5, 9, 0, 0, 15, 19, 0, 0],  # no genre is padding, no year is unknown
    ]


def test_numbers_are_standardised_on_what_training_showed(store: FeatureStore) -> None:
    # age of Ann and Bob: mean 30, deviation 10; wait: mean 6, deviation 2; a missing one is the mean
    assert store.numeric == {"age": (30.0, 10.0), "wait": (6.0, 2.0)}
    assert_allclose(batch(store).numeric_BN[:, :2], [[-1.0, 2.0], [6.0, 0.0], [1.0, 0.0]])


def test_histories_are_cut_and_padded_on_the_left(store: FeatureStore) -> None:
    assert batch(store).history_ids_BL.tolist() == [[0, 0, 0], [0, 8, 7], [9, 10, 8]]


def test_history_ratings_are_residuals_against_the_items_mean_in_units_of_the_range(store: FeatureStore) -> None:
    # (5 - 3) / 4, (4 - 3) / 4; (2 - 4) / 4, (3 - 2) / 4, (5 - 3) / 4
    assert_allclose(batch(store).history_rating_BL, [[0.0, 0.0, 0.0], [0.0, 0.5, 0.25], [-0.5, 0.25, 0.5]])


def test_history_numbers_say_how_long_and_how_generous(store: FeatureStore) -> None:
    expected = [[0.0, 0.0, 0.0], [np.log(3.0) / 2, 4 * 0.375, 4 * 0.375], [np.log(4.0) / 2, 4 * 0.25 / 3, 4 * 0.25 / 3]]
    assert_allclose(batch(store).numeric_BN[:, 2:], expected, rtol=1e-6)


def test_the_last_ten_ratings_count_apart() -> None:
    residual_BL = np.array([[0.9, 0.9, *[0.1] * 10]], np.float32)
    found = history_numbers(np.ones((1, 12), np.bool_), residual_BL)
    assert_allclose(found, [[np.log(13.0) / 2, 4 * 2.8 / 12, 4 * 0.1]], rtol=1e-6)


def test_the_shapes_are_announced_to_the_model(store: FeatureStore) -> None:
    inputs = store.inputs
    assert inputs.slots == (
        Slot("user_id", 0, 1, 1),
        Slot("gender", 1, 1, 4),
        Slot("item_id", 2, 1, 7),
        Slot("genres", 3, 2, 11),
        Slot("year", 5, 1, 15),
        Slot("device", 6, 1, 18),
        Slot("moods", 7, 2, 20),
    )
    assert (inputs.embedding_rows, inputs.item_slot, inputs.history_length) == (22, 2, 3)
    assert inputs.numeric_names == ("age", "wait", "history_log_length", "history_mean_residual", "history_mean_residual_last_10")


def test_the_tensors_have_the_announced_shapes_and_types(store: FeatureStore) -> None:
    found = batch(store)
    assert (found.slot_ids_BS.shape, found.slot_ids_BS.dtype) == ((3, 9), torch.int64)
    assert (found.numeric_BN.shape, found.numeric_BN.dtype) == ((3, 5), torch.float32)
    assert (found.history_ids_BL.shape, found.history_ids_BL.dtype) == ((3, 3), torch.int64)
    assert (found.history_rating_BL.shape, found.history_rating_BL.dtype) == ((3, 3), torch.float32)
    assert int(found.slot_ids_BS.max()) < store.inputs.embedding_rows


def test_any_choice_of_rows_is_the_choice_from_the_whole_batch(store: FeatureStore) -> None:
    whole, columns = batch(store), store.columns(SAMPLES)
    picked = store.batch(columns, np.array([2, 0, 2]))
    assert torch.equal(picked.slot_ids_BS, whole.slot_ids_BS[[2, 0, 2]])
    assert torch.equal(picked.numeric_BN, whole.numeric_BN[[2, 0, 2]])
    assert torch.equal(picked.history_ids_BL, whole.history_ids_BL[[2, 0, 2]])


@pytest.mark.parametrize("samples", [SAMPLES.slice(1), pa.concat_tables([SAMPLES.slice(1, 1), SAMPLES.slice(2)])], ids=["slice", "chunks"])
def test_slices_and_chunks_give_what_the_whole_table_gives(store: FeatureStore, samples: pa.Table) -> None:
    whole = store.batch(store.columns(SAMPLES), slice(1, None))
    assert_equal(batch(store, samples), whole)


def test_a_single_sample_gives_what_it_gives_among_others(store: FeatureStore) -> None:
    """Serving asks for one, training for many."""
    columns = store.columns(SAMPLES)
    for row in range(3):
        assert_equal(batch(store, SAMPLES.slice(row, 1)), store.batch(columns, np.array([row])))


def test_a_saved_store_gives_identical_batches(store: FeatureStore, tmp_path: Path) -> None:
    save_store(store, str(tmp_path))
    loaded = load_store(str(tmp_path))
    assert_equal(batch(loaded), batch(store))
    assert loaded.inputs == store.inputs
    assert loaded.schema == store.schema
    assert loaded.items["title"].tolist() == ITEMS["title"].tolist()


def test_a_store_can_live_in_an_object_store(store: FeatureStore) -> None:
    save_store(store, "memory://bucket/store-test/tables")
    assert_equal(batch(load_store("memory://bucket/store-test/tables")), batch(store))


def test_a_field_that_training_never_showed_survives_saving(tmp_path: Path) -> None:
    store = fit_store(SCHEMA, USERS, ITEMS, {**CONTEXT, "device": pd.Series([], dtype="str")}, history_length=3, tag_width=2)
    save_store(store, str(tmp_path))
    assert load_store(str(tmp_path)).inputs == store.inputs
    assert batch(load_store(str(tmp_path))).slot_ids_BS[:, 6].tolist() == [18, 18, 18]


def test_ids_alone_are_enough() -> None:
    users = USERS.loc[:, ["user_id", "train_count"]]
    items = ITEMS.loc[:, ["item_id", "train_count", "train_rating_mean"]]
    store = fit_store(Schema(0.0, 1.0, 0.5), users, items, {}, history_length=2, tag_width=1)
    samples = SAMPLES.select(["user_row", "item_row", "history_rows", "history_ratings"])
    assert batch(store, samples).slot_ids_BS.tolist() == [[2, 5], [1, 4], [3, 6]]
    assert store.inputs.numeric_names == ("history_log_length", "history_mean_residual", "history_mean_residual_last_10")


def test_tags_beyond_the_width_and_missing_lists_are_cut_and_padded() -> None:
    words = Vocabulary("tags", 1, pd.Index(["a", "b", "c"]))
    lists = pd.Series([["c", "a", "b"], None, ["x"], [], ["b"]], index=[9, 9, 3, 1, 0])
    assert_array_equal(encode_tags(words, lists, 2), [[4, 2], [0, 0], [1, 0], [0, 0], [3, 0]])


def test_an_infinite_or_huge_number_gives_a_finite_batch(store: FeatureStore) -> None:
    strange = SAMPLES.set_column(SAMPLES.schema.get_field_index("wait"), "wait", pa.array([np.inf, 1e300, np.nan]))
    assert_allclose(batch(store, strange).numeric_BN[:, 1], [0.0, 100.0, 0.0])


def test_without_history_nothing_of_it_is_read(store: FeatureStore) -> None:
    assert store.sample_columns == ["user_row", "item_row", "history_rows", "history_ratings", "device", "wait", "moods"]
    without, whole = store.without_history(), batch(store)
    assert without.sample_columns == ["user_row", "item_row", "device", "wait", "moods"]
    found = batch(without, SAMPLES.select(without.sample_columns))
    assert found.history_ids_BL.shape == found.history_rating_BL.shape == (3, 0)
    assert torch.equal(found.slot_ids_BS, whole.slot_ids_BS)
    assert torch.equal(found.numeric_BN[:, :-3], whole.numeric_BN[:, :-3])
    assert not found.numeric_BN[:, -3:].any()
    assert store.history_length == 3
