"""A tiny prepared data set: users, items, samples, prompts and a language model, as the stages before training leave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from components.features.samples import to_samples
from components.features.store import FeatureStore, fit_store
from components.features.tables import save_store
from components.llm import backbone, tiny
from components.llm.prompt_rows import ClickRows, PromptRows
from components.prompts import click
from components.types import Field, FieldKind, Schema

SCHEMA = Schema(1.0, 5.0, 3.0, user_fields=(Field("mood", FieldKind.CATEGORICAL),), item_fields=(Field("genre", FieldKind.CATEGORICAL),))
USERS, ITEMS, EACH = 16, 24, 17  # every user rates 17 items; the last 3 validate
SMALL = tiny.Config(hidden_size=32, layers=2, heads=2, intermediate=64, vocabulary_size=400)
MAX_TOKENS = 256


def make(folder: Path) -> None:
    """Write `tables/`, `prompts/`, `backbone/` and `backbone-untied/` below `folder`; like everything here, the same in every run."""
    interactions = _interactions()
    store = _store(interactions)
    save_store(store, str(folder / "tables"))
    samples = to_samples(interactions, SCHEMA, history_length=6, min_history=2, hide_same_second=False)
    validates = samples["timestamp_s"].to_numpy() >= EACH - 3
    rows = ClickRows(store, history_length=4)
    texts = [click.render(example).text for example in rows.examples(samples)]
    tiny.make(str(folder / "backbone"), iter(texts), SMALL)
    tiny.make(str(folder / "backbone-untied"), iter(texts), replace(SMALL, tied=False))
    encoder = backbone.load_encoder(backbone.Config(path=str(folder / "backbone")), MAX_TOKENS)
    prompts = PromptRows(store, encoder, history_length=4).encode(samples)
    train, valid = prompts.filter(~validates), prompts.filter(validates)
    half = train.num_rows // 2
    parts = {
        "tables/train": train.drop_columns(["token_ids", "prefix_length"]),
        "tables/valid": valid.drop_columns(["token_ids", "prefix_length"]),
        "prompts/joint": train.slice(0, half),
        "prompts/llm": train.slice(half),
        "prompts/early_stopping": valid.slice(0, 33),  # odd, so that workers get unequal shares
    }
    for name, table in parts.items():
        (folder / name).mkdir(parents=True)
        for part, start in enumerate(range(0, table.num_rows, 80)):
            pq.write_table(table.slice(start, 80), folder / name / f"part-{part:06}.parquet")


def _interactions() -> pd.DataFrame:
    """Everybody likes the items of the first genre, mostly."""
    random = np.random.default_rng(7)
    user = np.repeat(np.arange(USERS), EACH)
    item = np.concatenate([random.permutation(ITEMS)[:EACH] for _ in range(USERS)])
    likes = (item % 3 == 0) ^ (random.random(len(user)) < 0.1)
    return pd.DataFrame(
        {
            "user_id": [f"u{row}" for row in user],
            "item_id": [f"i{row}" for row in item],
            "user_row": user,
            "item_row": item,
            "rating": np.where(likes, 5.0, 2.0),
            "timestamp_s": np.tile(np.arange(EACH), USERS),
        }
    )


def _store(interactions: pd.DataFrame) -> FeatureStore:
    train = interactions[interactions["timestamp_s"] < EACH - 3]
    counts = {name: train[name].value_counts() for name in ("user_row", "item_row")}
    users = pd.DataFrame({"user_id": [f"u{row}" for row in range(USERS)], "mood": [f"mood {row % 3}" for row in range(USERS)]})
    items = pd.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(ITEMS)],
            "title": [f"Story {row}" for row in range(ITEMS)],
            "genre": [f"genre {row % 3}" for row in range(ITEMS)],
        }
    )
    users["train_count"] = counts["user_row"].reindex(range(USERS), fill_value=0).to_numpy()
    items["train_count"] = counts["item_row"].reindex(range(ITEMS), fill_value=0).to_numpy()
    items["train_rating_mean"] = train.groupby("item_row")["rating"].mean().reindex(range(ITEMS), fill_value=3.5).to_numpy()
    return fit_store(SCHEMA, users, items, {}, history_length=6, tag_width=2)
