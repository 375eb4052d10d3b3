"""Prompts to score: users of MovieLens-100K, or of the generated demo data, each asked the project's own question about many items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from components.datasets.demo import Demo
from components.datasets.movielens import MovieLens100k
from components.llm import backbone, tiny, tiny_config
from components.llm.tokens import SharedPrompts
from components.prompts import click
from components.prompts.textualize import item_texts, title_texts, user_texts
from components.types import Source, Tables

MOVIELENS = "../shared/data/ml-100k"
MAX_TOKENS = 2_048
SHAPES = {
    "S": tiny_config.Config(hidden_size=256, layers=4, heads=4, intermediate=704, vocabulary_size=4_096, max_positions=MAX_TOKENS),
    "L": tiny_config.Config(hidden_size=384, layers=5, heads=6, intermediate=1_024, vocabulary_size=4_096, max_positions=MAX_TOKENS),
}


@dataclass(frozen=True)
class Question:
    """A user's prompt without a candidate, and the tails of the candidates."""

    shared: click.ClickExample
    candidates: tuple[str, ...]
    retrieved: tuple[tuple[tuple[str, float], ...], ...]
    """For each candidate the user's ratings of the items most like it, by genres."""


class Questions:
    """Asks about random items, after each user's latest ratings."""

    def __init__(self, folder: str, history: int, candidates: int, seed: int = 0) -> None:
        """A folder that does not exist stands for the generated demo data."""
        known = Path(folder).is_dir()
        tables: Tables = MovieLens100k(MovieLens100k.Config()).read(folder) if known else Demo(Demo.Config()).read("")
        self.data = "MovieLens-100K" if known else "generated demo data"
        self._schema, self._history, self._count = tables.schema, history, candidates
        self._random = np.random.default_rng(seed)
        users, items, ratings = _frame(tables.users), _frame(tables.items), _frame(tables.interactions)
        self._titles, self._texts = title_texts(items, self._schema), item_texts(items, self._schema)
        self._profiles = dict(zip(users["user_id"], user_texts(users, self._schema), strict=True))
        rows = pd.Series(range(len(items)), index=items["item_id"])
        ratings = (
            ratings.assign(row=rows.reindex(ratings["item_id"]).to_numpy()).dropna(subset="row").sort_values("timestamp_s", kind="stable")
        )
        self._ratings = ratings.groupby("user_id", sort=False)
        tags = next((field.name for field in self._schema.item_fields if field.name == "genres"), None)
        self._tags = [frozenset(each) for each in items[tags]] if tags else [frozenset[str]()] * len(items)

    def of(self, users: int) -> list[Question]:
        """Return the questions of the first users who rated as many items as a history shows."""
        asked: list[Question] = []
        for user, ratings in self._ratings:
            if len(asked) == users:
                break
            if len(ratings) >= self._history:
                asked.append(self._ask(str(user), ratings))
        return asked

    def texts(self) -> Iterator[str]:
        """Yield what a tokenizer is trained on."""
        for question in self.of(200):
            for text in question.candidates[:5]:
                yield click.render(replace(question.shared, target=text)).text

    def _ask(self, user: str, ratings: pd.DataFrame) -> Question:
        rated = [(int(row), float(rating)) for row, rating in zip(ratings["row"], ratings["rating"], strict=True)]
        items = self._random.choice(len(self._texts), self._count, replace=False)
        schema = self._schema
        history = tuple((self._titles[row], rating) for row, rating in rated[-self._history :])
        shared = click.ClickExample(self._profiles.get(user, ""), history, "", None, schema.item_noun, schema.rating_min, schema.rating_max)
        return Question(shared, tuple(self._texts[row] for row in items), tuple(self._alike(rated, row) for row in items))

    def _alike(self, rated: Sequence[tuple[int, float]], item: int) -> tuple[tuple[str, float], ...]:
        tags = self._tags[item]
        nearest = sorted(range(len(rated)), key=lambda at: (len(self._tags[rated[at][0]] & tags), at))[-self._history :]
        return tuple((self._titles[rated[at][0]], rated[at][1]) for at in sorted(nearest))


def encode(questions: Sequence[Question], model: str, history: Literal["latest", "retrieved"]) -> list[SharedPrompts]:
    """Return the questions' tokens; retrieved ratings depend on the candidate and stand in its suffix."""
    encoder = backbone.load_encoder(backbone.Config(path=model), MAX_TOKENS)
    found: list[SharedPrompts] = []
    for question in questions:
        prompt = click.render(question.shared)
        tails = [click.render(replace(question.shared, target=text)).tail for text in question.candidates]
        if history == "retrieved":
            lines = ["".join(click.render(replace(question.shared, history=each)).history) for each in question.retrieved]
            prompt, tails = replace(prompt, history=()), [own + tail for own, tail in zip(lines, tails, strict=True)]
        found.append(encoder.encode_shared(prompt, tails))
    return found


def make_model(folder: str, shape: str, questions: Questions) -> str:
    """Write a random Llama of a shape, with a tokenizer trained on the questions, and return its folder."""
    tiny.make(folder, questions.texts(), SHAPES[shape])
    return folder


def _frame(sources: Sequence[Source]) -> pd.DataFrame:
    return pd.concat([chunk for source in sources for chunk in source.read()], ignore_index=True)
