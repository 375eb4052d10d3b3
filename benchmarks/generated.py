"""Ratings at random, with users and items that have a few fields and titles: as many rows as are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from components.datasets.tabular import Tabular
from components.types import Tables

ROWS_A_USER, MOST_ITEMS, ITEMS_A_ROW = 100, 20_000, 0.004
PART_ROWS = 100_000
DAY_S = 86_400
JOBS = ("teacher", "nurse", "farmer", "lawyer", "engineer", "student", "artist", "retired")
GENRES = ("Adventure", "Thriller", "Drama", "Comedy", "Romance", "Documentary", "Animation")
WORDS = ("Silver", "Crimson", "Last", "Hidden", "Broken", "Distant", "Silent", "Golden", "Lost", "Winter", "Harbor", "Comet", "Alibi")


def write(folder: Path, rows: int) -> None:
    """Write `rows/` (Parquet files of 100,000 interactions), `users.parquet` and `items.parquet`; the same bytes each time."""
    random = np.random.default_rng(0)
    users, items = max(rows // ROWS_A_USER, 10), min(MOST_ITEMS, max(int(ITEMS_A_ROW * rows), 100))
    (folder / "rows").mkdir(parents=True)
    user_ids, item_ids = (np.array([f"{letter}{number}" for number in range(count)]) for letter, count in (("u", users), ("i", items)))
    pd.DataFrame({"user_id": user_ids, "age": random.integers(16, 76, users), "job": random.choice(JOBS, users)}).to_parquet(
        folder / "users.parquet"
    )
    words, years = random.choice(WORDS, (items, 3)).tolist(), random.integers(1950, 2020, items).tolist()
    titles = [f"The {a} {b} of {c} ({year})" for (a, b, c), year in zip(words, years, strict=True)]
    genres = [sorted(set(pair)) for pair in random.choice(GENRES, (items, 2)).tolist()]
    pd.DataFrame({"item_id": item_ids, "title": titles, "genres": genres}).to_parquet(folder / "items.parquet")
    start_s = 1_000_000_000 + random.integers(0, 3_000, users) * DAY_S
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - first)
        user = random.integers(users, size=count)
        columns = {
            "user_id": user_ids[user],
            "item_id": item_ids[np.minimum(random.exponential(items / 6, count).astype(np.int64), items - 1)],
            "rating": random.integers(1, 6, count),
            "timestamp": start_s[user] + random.integers(0, 200 * DAY_S, count),
        }
        pd.DataFrame(columns).to_parquet(folder / "rows" / f"part-{number:04}.parquet")


def read(folder: str) -> Tables:
    """Open what `write` wrote."""
    config = Tabular.Config(
        interactions="rows",
        users="users.parquet",
        items="items.parquet",
        user_numeric=("age",),
        user_categorical=("job",),
        item_tags=("genres",),
        item_noun="movie",
    )
    return Tabular(config).read(folder)
