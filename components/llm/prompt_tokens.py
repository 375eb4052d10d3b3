"""Samples to the tokens of their prompts: each distinct profile, history line and question is encoded once, arrays do the rest.

Imports neither torch nor transformers: a worker that writes prompts starts in a fraction of the time that these take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from components.errors import ConfigError
from components.features.ragged import Ragged, stacked
from components.llm.plain_text import PlainText, TokenIds
from components.prompts import click
from components.prompts.textualize import textualize
from components.types import Schema

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """What prompts say of users and items, by row, cut to their budgets."""

    profiles: Sequence[str]
    items: Sequence[str]
    titles: Sequence[str]


@dataclass(frozen=True)
class PromptTokens:
    """Writes the prompts that `click.render` gives, as tokens; picklable."""

    schema: Schema
    texts: Texts
    history_length: int
    text: PlainText
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    max_tokens: int
    tail_tokens: int  # kept free for the tail, so that all candidates of a user keep the same history
    context_tokens: int  # of a context's text

    def encode(self, samples: pa.Table) -> pa.Table:
        """Return the samples with `token_ids` (list<int32>) and `prefix_length`, the tokens that all candidates of a user share.

        Over budget, whole history lines go, the oldest first. Raises ConfigError when head and tail alone exceed `max_tokens`.
        """
        shown, ratings = (Ragged.from_arrow(samples[name]).latest(self.history_length) for name in ("history_rows", "history_ratings"))
        head, heads = self._heads(samples["user_row"].to_numpy(), shown.lengths > 0)
        line, lines = self._lines(shown.values, ratings.values)
        tail, tails = self._tails(samples)
        head_tokens, tail_tokens = heads.lengths[head], tails.lengths[tail]
        room = self.max_tokens - head_tokens - np.maximum(tail_tokens, self.tail_tokens + len(self.closing))
        if len(room) and room.min() < 0:
            least = self.max_tokens - int(room.min())
            raise ConfigError(f"max_tokens: expected at least {least} for a prompt's profile and question, got {self.max_tokens}")
        line_tokens = lines.lengths[line]
        up_to = np.cumsum(line_tokens)
        before = np.r_[0, up_to][shown.offsets]  # tokens of all lines before a sample's own
        sample = np.repeat(np.arange(len(room)), shown.lengths)
        kept = before[1:][sample] - (up_to - line_tokens) <= room[sample]  # this line and all later ones fit
        kept_lines = np.bincount(sample[kept], minlength=len(room))
        prefix = head_tokens + np.bincount(sample[kept], weights=line_tokens[kept], minlength=len(room)).astype(np.int64)
        # A prompt is its head, its lines and its tail: pieces of one stack, of which each sample names its own.
        ends = np.cumsum(kept_lines + 2)
        pieces = np.empty(ends[-1] if len(ends) else 0, np.int64)
        is_line = np.ones(len(pieces), np.bool_)
        is_line[ends - 1] = is_line[ends - kept_lines - 2] = False
        pieces[ends - kept_lines - 2] = head
        pieces[is_line] = line[kept] + len(heads.lengths)
        pieces[ends - 1] = tail + len(heads.lengths) + len(lines.lengths)
        joined = stacked([heads, lines, tails]).take(pieces)
        lists = pa.ListArray.from_arrays(pa.array(joined.offsets[np.r_[0, ends]].astype(np.int32)), pa.array(joined.values))
        return samples.append_column("token_ids", lists).append_column("prefix_length", pa.array(prefix.astype(np.int32)))

    def _heads(self, user_row: NDArray[np.int64], has_history: NDArray[np.bool_]) -> tuple[Codes, Ragged]:
        """Return the head of each sample, as a row of the distinct ones with what opens the prompt."""

        def write(key: int) -> TokenIds:
            history = (("-", 0.0),) if key % 2 else ()
            head = click.render(self._example(self.texts.profiles[key // 2], history, "")).head
            return np.concatenate([np.array(self.opening, np.int32), self.text.segment(head, after="")])

        return _each_once(2 * user_row.astype(np.int64) + has_history, write)

    def _lines(self, item_row: NDArray, rating: NDArray) -> tuple[Codes, Ragged]:
        """Return the line of each rated item."""
        rating_code, ratings = pd.factorize(rating, use_na_sentinel=False)
        stars = ratings.tolist()

        def write(key: int) -> TokenIds:
            item, code = divmod(key, len(stars))
            return self.text.segment(click.render(self._example("", ((self.texts.titles[item], stars[code]),), "")).history[0])

        return _each_once(item_row.astype(np.int64) * len(stars) + rating_code, write)

    def _tails(self, samples: pa.Table) -> tuple[Codes, Ragged]:
        """Return the question about each sample's item, with what is known of the interaction before it happens."""
        item_row = samples["item_row"].to_numpy().astype(np.int64)
        context, contexts = self._contexts(samples)

        def write(key: int) -> TokenIds:
            item, code = divmod(key, len(contexts))
            target = "; ".join(filter(None, (self.texts.items[item], contexts[code])))
            tail = self.text.segment(click.render(self._example("", (), target)).tail)
            return np.concatenate([tail, np.array(self.closing, np.int32)])

        return _each_once(item_row * len(contexts) + context, write)

    def _contexts(self, samples: pa.Table) -> tuple[Codes, list[str]]:
        """Return the text of each sample's context, as a row of the distinct ones."""
        fields = self.schema.context_fields
        if not fields:
            return np.zeros(samples.num_rows, np.int64), [""]
        rows = samples.select([field.name for field in fields]).to_pylist()
        codes, texts = pd.factorize(np.array([textualize(row, fields) for row in rows], object))
        return codes, [self.text.shorten(text, self.context_tokens) for text in texts]

    def _example(self, profile: str, history: tuple[tuple[str, float], ...], target: str) -> click.ClickExample:
        schema = self.schema
        return click.ClickExample(profile, history, target, None, schema.item_noun, schema.rating_min, schema.rating_max)


def _each_once(keys: Codes, write: Callable[[int], TokenIds]) -> tuple[Codes, Ragged]:
    """Write the tokens of each distinct key; return where each key's are, and them."""
    codes, distinct = pd.factorize(keys)
    return codes, Ragged.of([write(key) for key in distinct.tolist()])
