"""The nouns that every part shares. Axes: B batch, S slots, N numeric columns, L history, D embedding, H LLM hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:  # workers that only change tables need not wait for torch
    from torch import Tensor


class FieldKind(StrEnum):
    """How a column of a table is used."""

    CATEGORICAL = "categorical"  # one value a row, gets an embedding
    TAGS = "tags"  # a list of values a row (genres), their embeddings are averaged
    NUMERIC = "numeric"  # standardised on train
    TEXT = "text"  # read by the LLM only


@dataclass(frozen=True)
class Field:
    """A named column and how it is used."""

    name: str
    kind: FieldKind


@dataclass(frozen=True)
class Schema:
    """What the columns of a data set mean. Ids, `title`, `rating` and `timestamp_s` are implied and not listed."""

    rating_min: float
    rating_max: float
    positive_above: float  # label = rating > positive_above
    user_fields: tuple[Field, ...] = ()
    item_fields: tuple[Field, ...] = ()
    context_fields: tuple[Field, ...] = ()  # columns of an interaction known before it happens
    item_noun: str = "item"  # "movie", "book": how prompts name an item
    synthetic: bool = False  # generated data is named as such wherever it is shown
    shipped_split: bool = False  # interactions carry `split` and `history_items` as published


@dataclass(frozen=True)
class Source:
    """One raw file, read lazily in chunks: picklable, so that a remote task can read it."""

    path: str
    read: Callable[[], Iterator[pd.DataFrame]]


@dataclass(frozen=True)
class Tables:
    """A raw data set as canonical tables. Each chunk also has `file` (str) and `row` (int, from 1) for error reports.

    interactions: `user_id`, `item_id` (str), `rating` (float), `timestamp_s` (number), context fields;
        with a shipped split also `split` ("train", "valid", "test") and `history_items` (list of item ids, oldest first).
    users: `user_id` and user fields; empty when the data set has no user table.
    items: `item_id`, `title` (str) and item fields; empty when items are known by their ids alone.
    """

    schema: Schema
    interactions: tuple[Source, ...]
    users: tuple[Source, ...] = ()
    items: tuple[Source, ...] = ()
    best_auc: Callable[[pd.DataFrame], float] | None = None  # generated data: the AUC of the true probabilities on labelled samples


@dataclass(frozen=True)
class Slot:
    """The columns of `CrmBatch.slot_ids_BS` that belong to one field."""

    name: str
    start: int
    width: int  # 1, or the longest kept list of a TAGS field
    unknown_row: int  # the embedding row of a value not seen in training


@dataclass(frozen=True)
class CrmInputs:
    """The shapes a CRM is built for. Embedding row 0 is padding (a zero vector); each field owns a range of rows,
    the first of which stands for an unknown value."""

    slots: tuple[Slot, ...]
    embedding_rows: int
    numeric_names: tuple[str, ...]
    history_length: int
    item_slot: int  # index in `slots` of the item id, whose embedding rows the history uses too


@dataclass(frozen=True)
class CrmBatch:
    """Samples as a CRM reads them."""

    slot_ids_BS: Tensor  # int64, rows of the embedding table, 0 = padding
    numeric_BN: Tensor  # float32, standardised, missing = 0
    history_ids_BL: Tensor  # int64, most recent LAST, left-padded with 0
    history_rating_BL: Tensor  # float32, rating minus the item's mean train rating, in units of the rating range; 0 where padded

    def to(self, device: str) -> CrmBatch:
        return CrmBatch(
            self.slot_ids_BS.to(device),
            self.numeric_BN.to(device),
            self.history_ids_BL.to(device),
            self.history_rating_BL.to(device),
        )


@dataclass(frozen=True)
class CrmOutput:
    """What a CRM answers: click logits and the inner vectors that alignment may use."""

    logits_B: Tensor
    hidden: tuple[Tensor, ...]  # each [B, width]; for DCNv2 one a cross layer


@dataclass(frozen=True)
class TokenBatch:
    """Prompts as an LLM reads them: right-padded."""

    token_ids_BT: Tensor  # int64
    mask_BT: Tensor  # int64, 1 = token, 0 = padding
    answer_B: Tensor  # int64, the position whose output predicts the answer

    def to(self, device: str) -> TokenBatch:
        return TokenBatch(self.token_ids_BT.to(device), self.mask_BT.to(device), self.answer_B.to(device))


@dataclass(frozen=True)
class LlmOutput:
    """What the LLM answers at the answer position."""

    logits_B2: Tensor  # columns: no, yes
    hidden: tuple[Tensor, ...]  # each [B, H], one a block, in order

    @property
    def logits_B(self) -> Tensor:
        """The click logit: log-odds of Yes against No (CoReLLa: the two-way softmax of both logits)."""
        return self.logits_B2[:, 1] - self.logits_B2[:, 0]


@dataclass(frozen=True)
class Prompt:
    """One question to an LLM, cut where it may be shortened and where candidates of one user differ."""

    head: str  # instruction and user profile
    history: tuple[str, ...]  # one line each, oldest first; the only part that may be dropped, oldest first
    tail: str  # candidate, question and the cue for the answer
    target: str  # the answer to learn; empty when it is asked for

    @property
    def text(self) -> str:
        return self.head + "".join(self.history) + self.tail
