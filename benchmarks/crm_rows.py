"""A million MovieLens ratings for the CRM's benchmarks: as our tables, and as plain columns of numbers for everybody else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.datasets.movielens import MovieLens1m
from components.features.samples import to_samples
from components.features.split import SPLITS
from components.features.store import FeatureStore, fit_store
from components.features.tables import save_store
from components.types import Source, Tables
from pipelines import prepare

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml-1m"
FIELDS = ("user_id", "gender", "age", "occupation", "zip", "item_id", "year")  # what every model reads: one embedding each
SHARES = (0.8, 0.1, 0.1)
PART_ROWS = 100_000
RATINGS = ("ratings.dat", "ratings_notime.dat.gz")


def lacking(data: Path) -> str:
    """Say what is missing in the folder of MovieLens-1M; empty where nothing is."""
    if not all((data / name).exists() for name in ("users.dat", "movies.dat")) or not any((data / name).exists() for name in RATINGS):
        return f"needs MovieLens-1M in {data}: users.dat, movies.dat and {' or '.join(RATINGS)}"
    return ""


def make(data: Path, folder: Path, rows: int) -> dict[str, int]:
    """Write `tables/` as `prepare` does and `plain/{train,valid,test}.parquet` with `plain/fields.json`; return the rows of each split.

    Times are drawn at random, so that rows come in random order, with the histories that they then have.
    """
    raw = folder / "raw"
    raw.mkdir(parents=True)
    lines = _ratings(data)
    drawn = np.random.default_rng(0)
    lines = [lines[row] for row in drawn.permutation(len(lines))[:rows]]
    times = 956_703_932 + np.arange(len(lines))
    (raw / "ratings.dat").write_text("".join(f"{line}::{time}\n" for line, time in zip(lines, times, strict=True)))
    for name in ("users.dat", "movies.dat"):
        (raw / name).symlink_to((data / name).resolve())
    found = MovieLens1m(MovieLens1m.Config()).read(str(raw))
    users, items, samples = _samples(found)
    counts = np.array([int(share * samples.num_rows) for share in SHARES])
    counts[-1] = samples.num_rows - counts[:-1].sum()
    parts = dict(zip(SPLITS, np.split(drawn.permutation(samples.num_rows), np.cumsum(counts)[:-1]), strict=True))
    store = _store(found, users, items, samples.take(parts["train"]))
    save_store(store, str(folder / "tables"))
    for name, chosen in parts.items():
        _write(store, samples.take(chosen), folder, name)
    return {name: len(chosen) for name, chosen in parts.items()}


def _ratings(data: Path) -> list[str]:
    if (data / RATINGS[0]).exists():
        return [line.rpartition("::")[0] for line in (data / RATINGS[0]).read_text().splitlines()]
    return gzip.decompress((data / RATINGS[1]).read_bytes()).decode().split()


def _whole(sources: tuple[Source, ...]) -> pd.DataFrame:
    return pd.concat([chunk for source in sources for chunk in source.read()], ignore_index=True)


def _samples(found: Tables) -> tuple[pd.DataFrame, pd.DataFrame, pa.Table]:
    users, items, block = _whole(found.users), _whole(found.items), _whole(found.interactions)
    rows = {name: pd.Index(table[name]).get_indexer(pd.Index(block[name])) for name, table in (("user_id", users), ("item_id", items))}
    block = block.assign(user_row=rows["user_id"], item_row=rows["item_id"])
    config = prepare.Config(min_history=0)
    return users, items, to_samples(block, found.schema, config.history_length, config.min_history, config.hide_same_second)


def _store(found: Tables, users: pd.DataFrame, items: pd.DataFrame, train: pa.Table) -> FeatureStore:
    counts = {name: np.bincount(train[name], minlength=len(table)) for name, table in (("user_row", users), ("item_row", items))}
    rated, prior = np.bincount(train["item_row"], weights=train["rating"], minlength=len(items)), prepare.ITEM_MEAN_PRIOR
    mean = (rated + prior * rated.sum() / train.num_rows) / (counts["item_row"] + prior)
    users = users.assign(train_count=counts["user_row"])
    items = items.assign(train_count=counts["item_row"], train_rating_mean=mean)
    return fit_store(found.schema, users, items, {}, prepare.Config.history_length, prepare.Config.tag_width)


def _write(store: FeatureStore, samples: pa.Table, folder: Path, split: str) -> None:
    """Write a split in both forms: ids of plain columns count from 0 in each field, 0 for a value that training does not show."""
    (folder / "tables" / split).mkdir(parents=True)
    for part, start in enumerate(range(0, samples.num_rows, PART_ROWS)):
        pq.write_table(samples.slice(start, PART_ROWS), folder / "tables" / split / f"part-{part:06}.parquet")
    ids_BS = store.batch(store.columns(samples)).slot_ids_BS.numpy()
    slots = [next(slot for slot in store.inputs.slots if slot.name == name) for name in FIELDS]
    columns = {slot.name: (ids_BS[:, slot.start] - slot.unknown_row).astype(np.int32) for slot in slots}
    (folder / "plain").mkdir(exist_ok=True)
    label = samples["label"].to_numpy().astype(np.float32)
    pq.write_table(pa.table({**columns, "label": label}), folder / "plain" / f"{split}.parquet")
    sizes = {name: store.vocabularies[name].size for name in FIELDS}
    (folder / "plain" / "fields.json").write_text(json.dumps(sizes))
