"""Prepare: raw files -> clean tables, labels, histories, the time split and vocabularies (Ray Data and tasks on its blocks).

Ray Data reads and checks the files in blocks; what follows is one task a block or partition and step. The driver holds users, items
and counts: nothing that grows with the number of interactions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray import ObjectRef

from components import artifacts
from components.datasets import checks
from components.datasets.quarantine import Quarantine
from components.errors import ConfigError, DataError
from components.features import split
from components.features.counts import Totals
from components.features.interactions import Directory, look, marked, scatter, settle
from components.features.sample_parts import Protocol, write_part
from components.types import Schema, Source, Tables
from pipelines.stage import StageContext
from pipelines.tasks import require_rows, results, started_in_parts
from pipelines.time_split import find_cuts

BUCKET_ROWS = 200_000  # interactions whose users are prepared together, in memory
MOST_PARTITIONS = 64  # of the exchange that brings users together; each holds as many buckets as it takes
ITEM_MEAN_PRIOR = 5.0  # ratings at the global mean that each item's mean starts from (ours)


@dataclass(frozen=True)
class Config:
    """How interactions become samples."""

    history_length: int = 30
    """Latest earlier interactions kept as a sample's history."""
    min_history: int = 5
    """Samples with fewer earlier interactions are dropped."""
    hide_same_second: bool = False
    """Treat interactions of one user in one second as simultaneous: none is in another's history."""
    train_fraction: float = 0.8
    """Share of all samples, the earliest ones, to train on."""
    valid_fraction: float = 0.1
    """Share of all samples, the next ones in time, to validate on; the rest tests."""
    tag_width: int = 6
    """Values kept of a list-valued field (genres)."""
    hide_titles: bool = False
    """Name items by their ids, not their titles: a control for what a pre-trained LLM remembers of known items."""
    max_bad_fraction: float = 0.01
    """Share of bad rows in a table beyond which the run ends before training."""
    expected_rows: tuple[int, int, int] | None = None
    """Rows of train, valid and test that the protocol must give; None accepts any."""

    def __post_init__(self) -> None:
        if self.history_length < 1 or self.min_history < 0 or self.tag_width < 1:
            raise ConfigError("prepare: expected history_length >= 1, min_history >= 0 and tag_width >= 1")
        if not (0 < self.train_fraction < 1 and 0 < self.valid_fraction < 1 - self.train_fraction):
            raise ConfigError(
                "prepare.train_fraction, prepare.valid_fraction: expected shares above 0 that leave rows to test on, "
                f"got {self.train_fraction} and {self.valid_fraction}"
            )
        if not 0 <= self.max_bad_fraction < 1:
            raise ConfigError(f"prepare.max_bad_fraction: expected a share in [0, 1), got {self.max_bad_fraction}")


def run(context: StageContext, tables: Tables, config: Config) -> None:
    """Write the artifact `tables/`; raises DataError where the data can't be used."""
    from components.features.store import fit_store  # imports torch, which no task's process needs
    from components.features.tables import read_samples, save_store

    schema = tables.schema
    with Quarantine(artifacts.join(context.folder, "quarantine.parquet")) as quarantine:
        users = _dimension("users", "user_id", tables.users, schema, quarantine)
        items = _dimension("items", "item_id", tables.items, schema, quarantine)
        checked = _check(tables, items, time.time())
        seen = _look(checked, quarantine)
        context.progress.say(f"{seen.rows:,} interactions read and checked")
        users = _complete(users, "user_id", seen.users, [field.name for field in schema.user_fields])
        items = _complete(items, "item_id", seen.items, ["title", *(field.name for field in schema.item_fields)])
        if config.hide_titles:
            items = items.drop(columns="title", errors="ignore")
        directory = ray.put(Directory(_text(users["user_id"]), _text(items["item_id"]), _text(sorted(seen.files))))
        settled, times = _settle(checked, directory, seen, schema, config, quarantine)
        quarantine.require(config.max_bad_fraction)
    context.facts["quarantine"] = quarantine.counts
    context.facts["work"] = (seen.rows, "interactions")
    context.progress.say(f"users' interactions brought together; {sum(quarantine.counts.values()):,} bad rows in quarantine")
    cuts = () if schema.shipped_split else find_cuts(settled, times, seen.times_s, config)
    protocol = Protocol(schema, config.history_length, config.min_history, config.hide_same_second, cuts)
    totals = Totals(len(users), len(items), schema)
    rows = _write(settled, directory, protocol, totals, context)
    _require_rows(rows, config)
    users, items = _counted(users, items, totals)
    save_store(fit_store(schema, users, items, totals.context, config.history_length, config.tag_width), context.folder)
    if tables.best_auc is not None:
        test = read_samples(artifacts.join(context.folder, "test"), ["user_id", "item_id", "timestamp_s"]).to_pandas()
        context.facts["best_auc"] = tables.best_auc(test)
        context.progress.say(f"synthetic data: the best AUC that its generator allows on test is {context.facts['best_auc']:.4f}")


def _dimension(table: str, key: str, sources: tuple[Source, ...], schema: Schema, quarantine: Quarantine) -> pd.DataFrame | None:
    """Read users or items, send bad rows to quarantine and return the good ones; None where the data set has no such table."""
    if not sources:
        return None
    check = checks.check_users if table == "users" else checks.check_items
    frame = pd.concat([chunk for source in sources for chunk in source.read()], ignore_index=True)
    quarantine.count(table, len(frame))
    reasons = check(frame, schema)
    clean = reasons == ""
    reasons.loc[clean] = checks.duplicate_reasons(frame.loc[clean], [key])
    bad = reasons != ""
    quarantine.add(checks.quarantined(frame.loc[bad], reasons.loc[bad], table))
    good = frame.loc[~bad].drop(columns=["file", "row"])
    if good.empty:
        raise DataError(f"expected at least one usable row of {table}, got none of {len(frame)}: {quarantine.counts}")
    return good


def _check(tables: Tables, items: pd.DataFrame | None, now_s: float) -> list[Any]:
    """Read interactions file by file and mark each bad row with its reason; the marked rows keep their content as text."""
    known_items = ray.put(None if items is None else pd.Index(items["item_id"]))
    schema = tables.schema

    def read(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        known = ray.get(known_items)
        for position in batch["item"]:
            for chunk in tables.interactions[position].read():
                yield marked(chunk, checks.check_interactions(chunk, schema, known, now_s), schema)

    sources = ray.data.from_items(list(range(len(tables.interactions))), override_num_blocks=len(tables.interactions))
    return sources.map_batches(read, batch_size=1).materialize().to_arrow_refs()  # pyright: ignore[reportArgumentType]


@dataclass
class Seen:
    """What all blocks together hold."""

    rows: int = 0
    users: set[str] = field(default_factory=set)
    items: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    times_s: tuple[int, int] = (0, 0)


def _look(checked: list[Any], quarantine: Quarantine) -> Seen:
    """Collect the bad rows of all blocks, and which users and items the good ones have."""
    seen, times_s = Seen(), list[int]()
    for block in results(look, zip(checked)):
        quarantine.add(block.bad)
        seen.rows += block.rows
        seen.users.update(block.users)
        seen.items.update(block.items)
        seen.files.update(block.files)
        times_s += block.times_s or ()
    quarantine.count("interactions", seen.rows)
    if not times_s:
        raise DataError("expected at least one usable interaction, got none: every row is in quarantine")
    seen.times_s = min(times_s), max(times_s)
    return seen


def _complete(known: pd.DataFrame | None, key: str, seen: set[str], columns: list[str]) -> pd.DataFrame:
    """Return the table with a row for every id that occurs, in natural order; ids without a row of their own get empty fields."""
    frame = pd.DataFrame(columns=pd.Index([key, *columns])) if known is None else known
    missing = pd.DataFrame({key: sorted(seen - set(frame[key]))})
    whole = pd.concat([frame, missing], ignore_index=True) if len(missing) else frame
    whole = whole.assign(order=split.natural_key(whole.loc[:, key])).sort_values("order", kind="stable", ignore_index=True)
    return whole.drop(columns="order")


def _text(names: Iterable[str]) -> pa.Array:
    return pa.array(names, pa.string())


def _settle(
    checked: list[Any], directory: ObjectRef, seen: Seen, schema: Schema, config: Config, quarantine: Quarantine
) -> tuple[list[ObjectRef], NDArray[np.int64]]:
    """Bring each user's interactions together: the one exchange of all rows. Return them by partition, and the samples by time.

    Empties `checked`, so that the raw rows leave the nodes' memory.
    """
    buckets = 1 + seen.rows // BUCKET_ROWS
    partitions = min(buckets, MOST_PARTITIONS)
    parts = [started_in_parts(scatter, partitions, table, directory, partitions) for table in checked]
    checked.clear()
    asked = (directory, schema, (partitions, -(-buckets // partitions)), seen.times_s, config.min_history, config.hide_same_second)
    made = [started_in_parts(settle, 3, *asked, *tables) for tables in zip(*parts, strict=True)]
    del parts
    by_time = np.zeros(split.BINS, np.int64)
    for _, copies, times in made:
        quarantine.add(ray.get(copies))
        found = ray.get(times)
        by_time[found.bins] += found.rows
    return [users for users, _, _ in made], by_time


def _write(settled: list[ObjectRef], directory: ObjectRef, protocol: Protocol, totals: Totals, context: StageContext) -> dict[str, int]:
    """Write each split's samples, count those that train, and return how many there are of each."""
    rows: dict[str, int] = dict.fromkeys(split.SPLITS, 0)
    asked = ((buckets, directory, protocol, context.folder, number) for number, buckets in enumerate(settled))
    for written, counted in results(write_part, asked):
        totals.add(counted)
        for name, count in written.items():
            rows[name] += count
    for name, count in rows.items():
        require_rows(artifacts.join(context.folder, name), count)
    context.facts["rows"] = rows
    context.progress.say(", ".join(f"{name} {count:,}" for name, count in rows.items()) + " samples written")
    return rows


def _require_rows(rows: dict[str, int], config: Config) -> None:
    found = tuple(rows.values())
    if config.expected_rows not in (None, found):
        raise DataError(
            f"the protocol must give {config.expected_rows} rows of train, valid and test, got {found}: is the data complete? "
            "(--prepare.expected-rows None accepts any)"
        )


def _counted(users: pd.DataFrame, items: pd.DataFrame, totals: Totals) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add `train_count` to users and items and each item's smoothed mean train rating, `train_rating_mean`."""
    mean = totals.item_sums.sum() / max(totals.item_counts.sum(), 1)
    item_mean = (totals.item_sums + ITEM_MEAN_PRIOR * mean) / (totals.item_counts + ITEM_MEAN_PRIOR)
    return users.assign(train_count=totals.user_counts), items.assign(train_count=totals.item_counts, train_rating_mean=item_mean)
