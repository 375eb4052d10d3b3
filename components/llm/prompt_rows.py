"""From rows of samples to prompts and tokens: the one way that training, scoring and serving ask the LLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa

from components.errors import ConfigError
from components.features.store import FeatureStore
from components.features.visit import Resolved
from components.llm.prompt_tokens import PromptTokens, Texts
from components.llm.tokens import PromptEncoder, SharedPrompts
from components.prompts import click
from components.prompts.textualize import item_texts, textualize, title_texts, user_texts

LEAST_TEXT_TOKENS = 8  # of a profile, an item's text and a context each
JOINT_TOKENS = 8  # more than texts cut apart from their template can take when they stand in it


class ClickRows:
    """Reads samples as click-rating questions, with the texts of users, items and context."""

    def __init__(self, store: FeatureStore, history_length: int, shorten: Callable[[list[str]], list[str]] = list) -> None:
        """`history_length` is the number of latest rated items that a prompt shows; `shorten` cuts long texts."""
        self._schema, self._history_length, self._shorten = store.schema, history_length, shorten
        self.profiles = shorten(user_texts(store.users, store.schema))
        self.items = shorten(item_texts(store.items, store.schema))
        self.titles = shorten(title_texts(store.items, store.schema))

    def examples(self, samples: pa.Table) -> Iterator[click.ClickExample]:
        """Yield the question of each sample."""
        columns = (samples[name].to_pylist() for name in ("user_row", "item_row", "history_rows", "history_ratings"))
        for user, item, rows, ratings, context in zip(*columns, self._contexts(samples), strict=True):
            yield click.ClickExample(
                profile=self.profiles[user],
                history=self._history(rows, ratings),
                target="; ".join(filter(None, (self.items[item], context))),
                answer=None,
                item_noun=self._schema.item_noun,
                rating_min=self._schema.rating_min,
                rating_max=self._schema.rating_max,
            )

    def question(self, visit: Resolved) -> click.ClickExample:
        """Return what the questions of a visit share: profile and history, with no target yet."""
        if visit.profile is not None:
            profile = self._shorten(user_texts(visit.profile, self._schema))[0]
        else:
            profile = self.profiles[visit.user_row] if visit.user_row >= 0 else ""
        history = self._history(visit.history_rows.tolist(), visit.history_ratings.tolist())
        schema = self._schema
        return click.ClickExample(profile, history, "", None, schema.item_noun, schema.rating_min, schema.rating_max)

    def targets(self, visit: Resolved, shorten: Callable[[list[str]], list[str]]) -> list[str]:
        """Return the text of each candidate; `shorten` cuts those described on the spot."""
        described = shorten(item_texts(visit.descriptions, self._schema))
        texts = dict(zip(visit.described.tolist(), described, strict=True))
        context = textualize(visit.context.iloc[0], self._schema.context_fields) if self._schema.context_fields else ""
        context = self._shorten([context])[0] if context else ""
        found = (texts[at] if at in texts else self.items[row] for at, row in enumerate(visit.item_rows))
        return ["; ".join(filter(None, (text, context))) for text in found]

    def _contexts(self, samples: pa.Table) -> list[str]:
        """Write what is known of each interaction before it happens; it stands with the item, so candidates keep their prefix."""
        fields = self._schema.context_fields
        if not fields:
            return [""] * samples.num_rows
        rows = samples.select([field.name for field in fields]).to_pylist()
        return self._shorten([textualize(row, fields) for row in rows])

    def _history(self, rows: list[int], ratings: list[float]) -> tuple[tuple[str, float], ...]:
        latest = slice(max(0, len(rows) - self._history_length), None)
        return tuple((self.titles[row], rating) for row, rating in zip(rows[latest], ratings[latest], strict=True))


class PromptRows:
    """Turns samples into the tokens of their prompts."""

    def __init__(self, store: FeatureStore, encoder: PromptEncoder, history_length: int) -> None:
        """Raises ConfigError when the encoder's budget is too small for the template."""
        context = bool(store.schema.context_fields)
        template, question = _template_tokens(store, encoder)
        # Profile, item text and context each get a share of what the template leaves, and the history at least one.
        shares = 3 + context
        if encoder.max_tokens < template + shares * LEAST_TEXT_TOKENS:
            raise ConfigError(
                f"prompts.max_tokens: expected at least {template + shares * LEAST_TEXT_TOKENS} for the words of a prompt and a few "
                f"of a profile and an item, got {encoder.max_tokens}"
            )
        budget = (encoder.max_tokens - template) // shares
        self._rows = ClickRows(store, history_length, lambda texts: encoder.shorten(texts, budget))
        self._longest = longest = max(encoder.lengths(self._rows.items), default=0)
        # All candidates of a user keep the same history, as if each were the longest item.
        self._encoder = replace(encoder, tail_tokens=question + longest + context * budget)
        self.tokens = PromptTokens(
            store.schema,
            Texts(self._rows.profiles, self._rows.items, self._rows.titles),
            history_length,
            self._encoder.text,
            encoder.layout.opening,
            encoder.layout.closing,
            encoder.max_tokens,
            self._encoder.tail_tokens,
            budget,
        )

    def encode(self, samples: pa.Table) -> pa.Table:
        """Return the samples with `token_ids` and `prefix_length`, as `PromptTokens.encode`."""
        return self.tokens.encode(samples)

    def ask(self, visit: Resolved) -> SharedPrompts:
        """Return the prompts of a visit's candidates: what `encode` gives for the same rows, cut where they part."""
        question = self._rows.question(visit)
        # A description longer than any item of the data set would push out history that offline scoring keeps.
        targets = self._rows.targets(visit, lambda texts: self._encoder.shorten(texts, max(self._longest, LEAST_TEXT_TOKENS)))
        tails = [click.render(replace(question, history=(), target=target)).tail for target in targets]
        return self._encoder.encode_shared(click.render(question), tails)


def _template_tokens(store: FeatureStore, encoder: PromptEncoder) -> tuple[int, int]:
    """Return the tokens that a prompt's own words take at most, those of its question among them."""
    schema = store.schema
    example = click.ClickExample("-", (("-", schema.rating_max),), "-", None, schema.item_noun, schema.rating_min, schema.rating_max)
    unbounded = replace(encoder, max_tokens=1_000_000)
    sizes = [unbounded.encode(click.render(each)) for each in (example, replace(example, history=()))]
    longest = max(len(prompt.token_ids) for prompt in sizes) + JOINT_TOKENS
    return longest, len(sizes[0].token_ids) - sizes[0].prefix_length + JOINT_TOKENS
