"""The one place where columns become a `CrmBatch`: training, scoring and serving all come through here."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from components.features.history import pad_left
from components.features.numeric import fit_scale, standardise
from components.features.vocabulary import Vocabulary
from components.types import CrmBatch, CrmInputs, Field, FieldKind, Schema, Slot

Columns = Mapping[str, NDArray]
USER_ID, ITEM_ID = Field("user_id", FieldKind.CATEGORICAL), Field("item_id", FieldKind.CATEGORICAL)
NO_CONTEXT = pd.DataFrame()  # to hold nothing anew for each batch takes .3 ms
HISTORY_NUMBERS = ("history_log_length", "history_mean_residual", "history_mean_residual_last_10")


@dataclass(frozen=True)
class Encoded:
    """A table's rows as embedding rows [R, S] and standardised numbers [R, N], and what training saw of each [R]."""

    ids_RS: NDArray[np.int64]
    numeric_RN: NDArray[np.float32]
    train_count_R: NDArray[np.int64]
    train_rating_R: NDArray[np.float32]  # mean rating in training; 0 where the table has none

    def take(self, rows: NDArray[np.int32]) -> Encoded:
        """Return these rows."""
        return Encoded(*(values[rows] for values in self._columns))

    def put(self, positions: NDArray[np.int64], rows: Encoded) -> Encoded:
        """Return a copy with other rows at some positions."""
        columns = [values.copy() for values in self._columns]
        for values, new in zip(columns, rows._columns, strict=True):
            values[positions] = new
        return Encoded(*columns)

    @property
    def _columns(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        return self.ids_RS, self.numeric_RN, self.train_count_R, self.train_rating_R


class FeatureStore:
    """Users, items and vocabularies of one prepared data set, held as matrices that samples index by row number."""

    def __init__(
        self,
        schema: Schema,
        users: pd.DataFrame,
        items: pd.DataFrame,
        vocabularies: Mapping[str, Vocabulary],
        numeric: Mapping[str, tuple[float, float]],
        history_length: int,
        tag_width: int,
    ) -> None:
        """`numeric` maps a field to its mean and standard deviation on train; `tag_width` is the longest kept tag list."""
        self.schema, self.users, self.items = schema, users, items
        self.vocabularies, self.numeric = vocabularies, numeric
        self.history_length, self.tag_width = history_length, tag_width
        self.encoded_users, self.encoded_items = self.encode_users(users), self.encode_items(items)
        self.inputs = self._inputs()

    def encode_users(self, users: pd.DataFrame) -> Encoded:
        """Encode rows of a table of users; without `train_count`, as nobody that training knew."""
        return self._encode(users, (USER_ID, *self.schema.user_fields))

    def encode_items(self, items: pd.DataFrame) -> Encoded:
        """Encode rows of a table of items; without `train_count`, as items that training never saw."""
        return self._encode(items, (ITEM_ID, *self.schema.item_fields))

    def encode_context(self, context: pd.DataFrame) -> Encoded:
        """Encode what is known of interactions before they happen."""
        return self._encode(context, self.schema.context_fields)

    def holding(self, users: Encoded, items: Encoded) -> FeatureStore:
        """Return this store with only these users and items, which `batch` then indexes."""
        held = copy.copy(self)
        held.encoded_users, held.encoded_items = users, items
        return held

    def without_history(self) -> FeatureStore:
        """Return this store for a CRM that reads nothing of histories: `columns` and `batch` then leave them out."""
        held = copy.copy(self)
        held.history_length = 0
        return held

    @property
    def sample_columns(self) -> list[str]:
        """The columns of samples that `columns` reads."""
        history = ["history_rows", "history_ratings"] if self.history_length else []
        return ["user_row", "item_row", *history, *(field.name for field in self.schema.context_fields)]

    def columns(self, samples: pa.Table) -> dict[str, NDArray]:
        """Turn prepared samples into flat arrays, indexed by sample: done once for many batches."""
        names = [field.name for field in self.schema.context_fields]
        known = samples.select(names).to_pandas() if names else NO_CONTEXT
        context = self._encode(known, self.schema.context_fields, samples.num_rows)
        return {
            "user_row": samples["user_row"].to_numpy(),
            "item_row": samples["item_row"].to_numpy(),
            "history_rows": self._padded(samples, "history_rows", -1),
            "history_ratings": self._padded(samples, "history_ratings", 0.0),
            "context_ids": context.ids_RS,
            "context_numeric": context.numeric_RN,
        }

    def batch(self, columns: Columns, index: NDArray[np.int64] | slice = slice(None)) -> CrmBatch:
        """Build the CRM's input for the samples at `index`; one history in `columns` is that of them all."""
        user, item = columns["user_row"][index], columns["item_row"][index]
        history, ratings = columns["history_rows"], columns["history_ratings"]
        if len(history) > 1:
            history, ratings = history[index], ratings[index]
        seen = history >= 0
        span = self.schema.rating_max - self.schema.rating_min
        residual_BL = np.where(seen, (ratings - self.encoded_items.train_rating_R.take(history)) / span, 0.0).astype(np.float32)
        # `take` copies whole rows; an index does it number by number.
        known = self.encoded_users.ids_RS.take(user, axis=0), self.encoded_items.ids_RS.take(item, axis=0)
        ids = np.concatenate([*known, columns["context_ids"][index]], axis=1)
        lately = history_numbers(seen, residual_BL)
        numeric = [self.encoded_users.numeric_RN[user], self.encoded_items.numeric_RN[item], columns["context_numeric"][index]]
        return CrmBatch(
            slot_ids_BS=torch.from_numpy(ids),
            numeric_BN=torch.from_numpy(np.concatenate([*numeric, np.broadcast_to(lately, (len(item), lately.shape[1]))], axis=1)),
            history_ids_BL=torch.from_numpy(np.where(seen, self.encoded_items.ids_RS[history, 0], 0)),
            history_rating_BL=torch.from_numpy(residual_BL),
        )

    def _padded(self, samples: pa.Table, name: str, fill: float) -> NDArray:
        if not self.history_length:
            return np.zeros((samples.num_rows, 0), np.int32 if name == "history_rows" else np.float32)
        lists = _one_chunk(samples[name])
        return pad_left(lists.values.to_numpy(), lists.offsets.to_numpy(), self.history_length, fill)

    def _encode(self, table: pd.DataFrame, fields: Sequence[Field], rows: int | None = None) -> Encoded:
        count = len(table) if rows is None else rows
        ids, numeric = [np.zeros((count, 0), np.int64)], [np.zeros((count, 0), np.float32)]
        for field in fields:
            if field.kind is FieldKind.CATEGORICAL:
                ids.append(self.vocabularies[field.name].encode(table.loc[:, field.name])[:, None])
            elif field.kind is FieldKind.TAGS:
                ids.append(encode_tags(self.vocabularies[field.name], table.loc[:, field.name], self.tag_width))
            elif field.kind is FieldKind.NUMERIC:
                numeric.append(standardise(table.loc[:, field.name], self.numeric[field.name])[:, None])
        train_count, rating = (table[name] if name in table else np.zeros(count) for name in ("train_count", "train_rating_mean"))
        return Encoded(
            np.concatenate(ids, axis=1), np.concatenate(numeric, axis=1), np.asarray(train_count, np.int64), np.asarray(rating, np.float32)
        )

    def _inputs(self) -> CrmInputs:
        fields = (USER_ID, *self.schema.user_fields, ITEM_ID, *self.schema.item_fields, *self.schema.context_fields)
        slots: list[Slot] = []
        start = 0
        for field in fields:
            if field.kind in (FieldKind.CATEGORICAL, FieldKind.TAGS):
                width = self.tag_width if field.kind is FieldKind.TAGS else 1
                slots.append(Slot(field.name, start, width, self.vocabularies[field.name].first))
                start += width
        numeric = [field.name for field in fields if field.kind is FieldKind.NUMERIC]
        item_slot = next(position for position, slot in enumerate(slots) if slot.name == "item_id")
        rows = 1 + sum(vocabulary.size for vocabulary in self.vocabularies.values())
        return CrmInputs(tuple(slots), rows, (*numeric, *HISTORY_NUMBERS), self.history_length, item_slot)


def history_numbers(seen_BL: NDArray[np.bool_], residual_BL: NDArray[np.float32]) -> NDArray[np.float32]:
    """Summarise rated histories [B, L] as HISTORY_NUMBERS [B, 3]: how long, how generous against the items' means, and lately."""
    count, recent = seen_BL.sum(1), seen_BL[:, -10:].sum(1)
    overall = residual_BL.sum(1) / np.maximum(count, 1)
    lately = residual_BL[:, -10:].sum(1) / np.maximum(recent, 1)
    return np.stack([np.log1p(count) / 2.0, 4.0 * overall, 4.0 * lately], axis=1).astype(np.float32)


def encode_tags(vocabulary: Vocabulary, lists: pd.Series, width: int) -> NDArray[np.int64]:
    """Return the embedding rows [R, width] of each row's first `width` tags, padded with 0."""
    lists = lists.reset_index(drop=True)
    flat = lists.explode().dropna()
    position = flat.groupby(level=0).cumcount().to_numpy()
    kept = position < width
    ids = np.zeros((len(lists), width), np.int64)
    ids[flat.index.to_numpy()[kept], position[kept]] = vocabulary.encode(flat)[kept]
    return ids


def fit_store(
    schema: Schema,
    users: pd.DataFrame,
    items: pd.DataFrame,
    context: Mapping[str, pd.Series],
    history_length: int,
    tag_width: int,
) -> FeatureStore:
    """Fit vocabularies and number scales on training rows alone: users and items with `train_count` > 0, and the
    context values seen in training (distinct values for CATEGORICAL, [mean, deviation] for NUMERIC fields)."""
    vocabularies: dict[str, Vocabulary] = {}
    numeric: dict[str, tuple[float, float]] = {}
    seen_users, seen_items = users[users["train_count"] > 0], items[items["train_count"] > 0]
    values = {
        **{field: seen_users[field.name] for field in (USER_ID, *schema.user_fields)},
        **{field: seen_items[field.name] for field in (ITEM_ID, *schema.item_fields)},
        **{field: context[field.name] for field in schema.context_fields},
    }
    first = 1
    for field, column in values.items():
        if field.kind is FieldKind.NUMERIC:
            numeric[field.name] = fit_scale(column)
        elif field.kind is not FieldKind.TEXT:
            vocabularies[field.name] = Vocabulary.fit(field.name, first, column.explode())
            first += vocabularies[field.name].size
    return FeatureStore(schema, users, items, vocabularies, numeric, history_length, tag_width)


def _one_chunk(column: pa.ChunkedArray) -> pa.ListArray:
    whole = column.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
