"""Raw rows small enough for plain loops, what those make of them, and what Prepare left of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.features.tables import load_store, read_samples
from components.types import Field, FieldKind, Schema, Source, Tables
from pipelines import prepare
from pipelines.progress import Progress
from pipelines.stage import StageContext

FUTURE_S = 4_102_444_800  # 2100
LATE_ITEM = "i99"  # exists only at the end of time
SCHEMA = Schema(
    1.0,
    5.0,
    positive_above=3.0,
    user_fields=(Field("city", FieldKind.CATEGORICAL),),
    item_fields=(Field("genres", FieldKind.TAGS),),
    context_fields=(Field("device", FieldKind.CATEGORICAL), Field("wait", FieldKind.NUMERIC)),
)
COLUMNS = ["user_id", "item_id", "rating", "timestamp_s", "device", "wait"]
CONFIG = prepare.Config(history_length=4, min_history=2, max_bad_fraction=0.05)


@dataclass(frozen=True)
class Prepared:
    """What a run left."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def samples(self, split: str) -> pa.Table:
        return read_samples(str(self.folder / split))

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "quarantine.parquet").to_pylist()


def run(folder: Path, tables: Tables, config: prepare.Config = CONFIG) -> Prepared:
    folder.mkdir()
    prepared = Prepared(folder)
    prepare.run(StageContext(str(folder.parent), str(folder), "f", Progress(1), lambda *_: None, prepared.facts), tables, config)
    return prepared


def clean_rows() -> pd.DataFrame:
    """300 interactions of 12 users, many in the same second, no two of a user with one item in one second."""
    random = np.random.default_rng(3)
    drawn = pd.DataFrame(
        {
            "user_id": [f"u{user:02}" for user in random.integers(0, 12, 400)],
            "item_id": [f"i{item:02}" for item in random.integers(0, 15, 400)],
            "rating": random.integers(1, 6, 400).astype(np.float64),
            "timestamp_s": 1_000_000_000.0 + random.integers(0, 60, 400),
            "device": random.choice(["phone", "desk"], 400),
            "wait": random.integers(0, 9, 400).astype(np.float64),
        }
    )
    rows = drawn.drop_duplicates(["user_id", "item_id", "timestamp_s"]).head(300).reset_index(drop=True)
    rows.loc[rows["timestamp_s"].rank(method="first") > len(rows) - 8, "item_id"] = LATE_ITEM
    rows.loc[::7, "wait"] = np.nan
    return rows.drop_duplicates(["user_id", "item_id", "timestamp_s"], ignore_index=True)


def chunks(frame: pd.DataFrame, file: str, rows: int = 70) -> Iterator[pd.DataFrame]:
    numbered = frame.assign(file=file, row=np.arange(1, len(frame) + 1))
    for start in range(0, len(numbered), rows):
        yield numbered.iloc[start : start + rows].reset_index(drop=True)


def tables(*files: pd.DataFrame, users: pd.DataFrame | None = None) -> Tables:
    if users is None:
        users = pd.DataFrame({"user_id": [f"u{user:02}" for user in range(13)], "city": ["Köln", "Rome", None] * 4 + ["Oslo"]})
    items = pd.DataFrame({"item_id": [*(f"i{item:02}" for item in range(15)), LATE_ITEM]})
    items = items.assign(title="Film " + items["item_id"], genres=[["Drama"], ["War", "Drama"]] * 8)
    return Tables(
        SCHEMA,
        tuple(Source("", partial(chunks, frame, f"rows-{number}.csv")) for number, frame in enumerate(files)),
        users=(Source("", partial(chunks, users, "users.csv")),),
        items=(Source("", partial(chunks, items, "items.csv")),),
    )


def expected_samples(rows: pd.DataFrame, length: int, min_history: int) -> list[dict[str, Any]]:
    """Attach histories with plain loops; in the order of the global time split."""
    found: list[dict[str, Any]] = []
    for user, own in rows.groupby("user_id"):
        own = own.sort_values(["timestamp_s", "item_id"], kind="stable")
        earlier: list[tuple[str, float]] = []
        for item, rating, time_s in zip(own["item_id"], own["rating"], own["timestamp_s"], strict=True):
            if len(earlier) >= min_history:
                kept = earlier[-length:]
                history = {"history": [name for name, _ in kept], "ratings": [stars for _, stars in kept], "earlier": len(earlier)}
                found.append({"user": user, "item": item, "time": time_s, "label": int(rating > 3), **history})
            earlier.append((item, rating))
    return sorted(found, key=lambda sample: (sample["time"], sample["user"], sample["item"]))


def found_samples(prepared: Prepared, split: str) -> list[dict[str, Any]]:
    items = load_store(str(prepared.folder)).items["item_id"].tolist()
    found = [
        {
            "user": row["user_id"],
            "item": row["item_id"],
            "time": row["timestamp_s"],
            "label": row["label"],
            "history": [items[place] for place in row["history_rows"]],
            "ratings": row["history_ratings"],
            "earlier": row["earlier_count"],
        }
        for row in prepared.samples(split).to_pylist()
    ]
    return sorted(found, key=lambda sample: (sample["time"], sample["user"], sample["item"]))


def content(prepared: Prepared) -> dict[str, Any]:
    """Everything that a later stage reads, in the order in which it reads it."""
    splits = {split: prepared.samples(split).to_pylist() for split in ("train", "valid", "test")}
    frames = {
        name: pq.read_table(prepared.folder / f"{name}.parquet").to_pylist() for name in ("users", "items", "vocabulary", "quarantine")
    }
    return {**splits, **frames, "features": (prepared.folder / "features.json").read_text()}


def bad_rows(rows: pd.DataFrame) -> list[tuple[dict[str, Any], str]]:
    """One row for each fault, and the reason that it must be given."""
    good = rows.iloc[0].to_dict()
    return [
        ({**good, "user_id": None}, "null user_id"),
        ({**good, "rating": np.nan}, "rating missing or not a number"),
        ({**good, "rating": np.inf}, "rating infinite"),
        ({**good, "rating": 9.0}, "rating out of range: 9.0 (expected 1 to 5)"),
        (good, "duplicate of row 1 of rows-0.csv"),
        ({**good, "item_id": "i77"}, "item without metadata"),
        ({**good, "timestamp_s": float(FUTURE_S)}, f"time impossible: {float(FUTURE_S)} s (in the future)"),
        ({**good, "user_id": "", "rating": 0.5}, "null user_id; rating out of range: 0.5 (expected 1 to 5)"),
    ]
