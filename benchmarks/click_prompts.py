"""The project's own click prompts on real data, without Ray, and a random small Llama that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.datasets.demo import Demo
from components.datasets.movielens import MovieLens100k
from components.features.samples import to_samples
from components.features.store import fit_store
from components.features.tables import save_store
from components.llm import backbone, tiny
from components.llm.prompt_rows import ClickRows, PromptRows
from components.prompts import click
from components.types import Source, Tables
from pipelines.config import RunConfig
from pipelines.recipes import RECIPES

FOLDER = "../shared/data/ml-100k"


def recipe_of(data: str) -> RunConfig:
    """Return the recipe of MovieLens-100K where its files are in the folder, else the demo, whose data is generated."""
    return RECIPES["ml-100k" if (Path(data) / MovieLens100k.FILES[0]).is_file() else "demo"]()


def make(recipe: RunConfig, data: str, folder: Path, shape: tiny.Config, rows: int) -> pa.Table:
    """Write `tables/`, `llm/` (random, of this shape) and `prompts/`, samples in random order with their tokens, which are returned."""
    tables = _tables(recipe, data)
    users, items, rated = (_frame(sources) for sources in (tables.users, tables.items, tables.interactions))
    users = users.assign(train_count=1)
    items = items.assign(train_count=1, train_rating_mean=tables.schema.positive_above)
    rated["user_row"] = pd.Index(users["user_id"]).get_indexer(rated["user_id"])
    rated["item_row"] = pd.Index(items["item_id"]).get_indexer(rated["item_id"])
    known = recipe.prepare
    samples = to_samples(rated, tables.schema, known.history_length, known.min_history, known.hide_same_second)
    samples = samples.take(np.random.default_rng(0).permutation(samples.num_rows)[:rows])
    store = fit_store(tables.schema, users, items, {}, known.history_length, known.tag_width)
    save_store(store, str(folder / "tables"))
    texts = [click.render(example).text for example in ClickRows(store, recipe.prompts.history_length).examples(samples)]
    tiny.make(str(folder / "llm"), iter(texts), shape)
    encoder = backbone.load_encoder(backbone.Config(path=str(folder / "llm")), recipe.prompts.max_tokens)
    prompts = PromptRows(store, encoder, recipe.prompts.history_length).encode(samples)
    (folder / "prompts").mkdir()
    pq.write_table(prompts, folder / "prompts" / "part-000000.parquet")
    return prompts


def _tables(recipe: RunConfig, data: str) -> Tables:
    dataset = recipe.dataset
    assert isinstance(dataset, Demo.Config | MovieLens100k.Config), f"no data set of {recipe.recipe} here"
    return Demo(dataset).read(data) if isinstance(dataset, Demo.Config) else MovieLens100k(dataset).read(data)


def _frame(sources: tuple[Source, ...]) -> pd.DataFrame:
    return pd.concat([chunk for source in sources for chunk in source.read()], ignore_index=True)
