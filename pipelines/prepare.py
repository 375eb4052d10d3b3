"""Prepare: raw files -> clean tables, labels, histories, the time split and vocabularies (Ray Data).

Interactions stream through Ray Data in blocks. The driver holds users, items and counts: nothing that grows with the
number of interactions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
from ray.data import Dataset

from components import artifacts
from components.datasets import checks
from components.datasets.quarantine import SCHEMA as QUARANTINE
from components.datasets.quarantine import Quarantine
from components.errors import ConfigError, DataError
from components.features import split
from components.features.samples import to_samples
from components.features.shipped import shipped_samples
from components.features.store import fit_store
from components.features.tables import save_store
from components.types import FieldKind, Schema, Source, Tables
from pipelines.cluster import map_tables, tables_of, where, write_parts
from pipelines.stage import StageContext
from pipelines.time_split import with_split

BUCKET_ROWS = 200_000  # interactions whose users are prepared together, in memory
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
    max_bad_fraction: float = 0.01
    """Share of bad rows in a table beyond which the run ends before training."""
    expected_rows: tuple[int, int, int] | None = None
    """Rows of train, valid and test that the protocol must give; None accepts any."""

    def __post_init__(self) -> None:
        if self.history_length < 1 or self.min_history < 0 or self.tag_width < 1:
            raise ConfigError("prepare: expected history_length >= 1, min_history >= 0 and tag_width >= 1")
        if not (0 < self.train_fraction < 1 and 0 < self.valid_fraction < 1 - self.train_fraction):
            raise ConfigError(
                f"prepare: expected fractions that leave rows to test on, got {self.train_fraction} and {self.valid_fraction}"
            )
        if not 0 <= self.max_bad_fraction < 1:
            raise ConfigError(f"prepare.max_bad_fraction: expected a share in [0, 1), got {self.max_bad_fraction}")


def run(context: StageContext, tables: Tables, config: Config) -> None:
    """Write the artifact `tables/`; raises DataError where the data can't be used."""
    schema = tables.schema
    with Quarantine(artifacts.join(context.folder, "quarantine.parquet")) as quarantine:
        users = _dimension("users", "user_id", tables.users, schema, quarantine)
        items = _dimension("items", "item_id", tables.items, schema, quarantine)
        checked = _check(tables, items, time.time()).materialize()
        quarantine.count("interactions", checked.count())
        rows_read = checked.count()
        context.progress.say(f"{rows_read:,} interactions read and checked")
        _keep_bad(checked, quarantine)
        users = _complete(users, "user_id", checked, [field.name for field in schema.user_fields])
        items = _complete(items, "item_id", checked, ["title", *(field.name for field in schema.item_fields)])
        built = _build(checked, users, items, schema, config).materialize()
        del checked  # what is let go leaves the nodes' memory and disks
        _keep_bad(built, quarantine)
        quarantine.require(config.max_bad_fraction)
    context.facts["quarantine"] = quarantine.counts
    context.facts["work"] = (rows_read, "interactions")
    context.progress.say(f"histories built; {sum(quarantine.counts.values()):,} bad rows in quarantine")
    samples = where(built, "reason", "==", "")
    if not schema.shipped_split:
        samples = with_split(samples, config.train_fraction, config.valid_fraction)
    samples = samples.materialize()
    del built
    rows = _write(samples, context)
    _require_rows(rows, config)
    users, items = _count_training(samples, users, items)
    store = fit_store(schema, users, items, _context_values(samples, schema), config.history_length, config.tag_width)
    save_store(store, context.folder)
    if tables.best_auc is not None:
        test = pa.concat_tables(tables_of(where(samples, "split", "==", "test"))).to_pandas()
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


def _keep_bad(marked: Dataset, quarantine: Quarantine) -> None:
    for bad in tables_of(where(marked, "reason", "!=", "").select_columns(QUARANTINE.names)):
        quarantine.add(bad.to_pandas())


def _check(tables: Tables, items: pd.DataFrame | None, now_s: float) -> Dataset:
    """Read interactions file by file and mark each bad row with its reason; the marked rows keep their content as text."""
    known_items = ray.put(None if items is None else pd.Index(items["item_id"]))
    schema = tables.schema

    def read(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        known = ray.get(known_items)
        for position in batch["item"]:
            for chunk in tables.interactions[position].read():
                reasons = checks.check_interactions(chunk, schema, known, now_s)
                yield _marked(chunk, reasons, schema)

    sources = ray.data.from_items(list(range(len(tables.interactions))), override_num_blocks=len(tables.interactions))
    return sources.map_batches(read, batch_size=1)  # pyright: ignore[reportArgumentType]


def _marked(chunk: pd.DataFrame, reasons: pd.Series, schema: Schema) -> pa.Table:
    """Keep what samples need of a chunk, with the reason of each bad row and that row's content."""
    names = ["user_id", "item_id", "rating", "timestamp_s", "file", "row", *(field.name for field in schema.context_fields)]
    if schema.shipped_split:
        names += ["split", "history_items"]
    bad = reasons != ""
    marked = chunk[names].assign(table="interactions", reason=reasons, content="")
    marked.loc[bad, "content"] = checks.quarantined(chunk.loc[bad], reasons.loc[bad], "interactions")["content"].to_numpy()
    marked["timestamp_s"] = marked["timestamp_s"].where(~bad, 0).astype("int64")
    # Arrow keeps lists as lists; a pandas block would turn them into tensors.
    return pa.Table.from_pandas(marked, preserve_index=False)


def _complete(known: pd.DataFrame | None, key: str, checked: Dataset, columns: list[str]) -> pd.DataFrame:
    """Return the table with a row for every id that occurs, in natural order; ids without a row of their own get empty fields."""
    good = where(checked, "reason", "==", "").select_columns([key])
    seen: set[str] = set()
    for block in tables_of(map_tables(good, lambda table: pa.table({key: table[key].unique()}))):
        seen.update(block[key].to_pylist())
    if not seen:
        raise DataError("expected at least one usable interaction, got none: every row is in quarantine")
    frame = pd.DataFrame(columns=pd.Index([key, *columns])) if known is None else known
    missing = pd.DataFrame({key: sorted(seen - set(frame[key]))})
    whole = pd.concat([frame, missing], ignore_index=True) if len(missing) else frame
    whole = whole.assign(order=split.natural_key(whole.loc[:, key])).sort_values("order", kind="stable", ignore_index=True)
    return whole.drop(columns="order")


def _build(checked: Dataset, users: pd.DataFrame, items: pd.DataFrame, schema: Schema, config: Config) -> Dataset:
    """Bring each user's interactions together, attach histories and labels; later copies of a row carry a reason."""
    indexes = ray.put((pd.Index(users["user_id"]), pd.Index(items["item_id"])))
    buckets = 1 + checked.count() // BUCKET_ROWS

    def link(table: pa.Table) -> pa.Table:
        user_index, item_index = ray.get(indexes)
        user_row = user_index.get_indexer(table["user_id"].to_pandas()).astype(np.int32)
        item_row = item_index.get_indexer(table["item_id"].to_pandas()).astype(np.int32)
        for name, values in (("user_row", user_row), ("item_row", item_row), ("bucket", user_row % buckets)):
            table = table.append_column(name, pa.array(values))
        return table

    def build(table: pa.Table) -> pa.Table:
        bucket = table.to_pandas()
        reasons = checks.duplicate_reasons(bucket, ["user_id", "item_id", "timestamp_s"])
        raw = bucket.drop(columns=["table", "reason", "content", "user_row", "item_row", "bucket"])
        later = reasons != ""
        bad = checks.quarantined(raw.loc[later], reasons.loc[later], "interactions")
        good = bucket.loc[~later]
        if schema.shipped_split:
            samples = shipped_samples(good, schema, config.history_length, ray.get(indexes)[1])
        else:
            samples = to_samples(good, schema, config.history_length, config.min_history, config.hide_same_second)
        marks = pa.Table.from_pandas(bad, QUARANTINE, preserve_index=False)
        empty = pa.table({"reason": pa.array([""] * samples.num_rows, pa.string())})
        return pa.concat_tables([samples.append_column("reason", empty["reason"]), marks], promote_options="permissive")

    linked = map_tables(where(checked, "reason", "==", ""), link)
    return linked.groupby("bucket", num_partitions=min(buckets, 64)).map_groups(build, batch_format="pyarrow")


def _write(samples: Dataset, context: StageContext) -> dict[str, int]:
    """Write each split's samples and return their counts."""
    rows: dict[str, int] = {}
    for name in split.SPLITS:
        part = where(samples, "split", "==", name)
        rows[name] = part.count()
        write_parts(part.drop_columns(["split", *QUARANTINE.names]), artifacts.join(context.folder, name), rows[name])
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


def _count_training(samples: Dataset, users: pd.DataFrame, items: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add `train_count` to users and items and each item's smoothed mean train rating, `train_rating_mean`."""
    train = where(samples, "split", "==", "train").select_columns(["user_row", "item_row", "rating"])
    user_count, item_count, item_sum = np.zeros(len(users), np.int64), np.zeros(len(items), np.int64), np.zeros(len(items))
    for block in tables_of(train):
        user_count += np.bincount(block["user_row"], minlength=len(users))
        item_count += np.bincount(block["item_row"], minlength=len(items))
        item_sum += np.bincount(block["item_row"], weights=block["rating"], minlength=len(items))
    mean = item_sum.sum() / max(item_count.sum(), 1)
    item_mean = (item_sum + ITEM_MEAN_PRIOR * mean) / (item_count + ITEM_MEAN_PRIOR)
    return users.assign(train_count=user_count), items.assign(train_count=item_count, train_rating_mean=item_mean)


def _context_values(samples: Dataset, schema: Schema) -> Mapping[str, pd.Series]:
    """Return what the context fields' vocabularies and scales are fitted on: values of the training samples."""
    train = where(samples, "split", "==", "train")
    values: dict[str, pd.Series] = {}
    for field in schema.context_fields:
        column = train.select_columns([field.name])
        if field.kind is FieldKind.NUMERIC:
            mean, deviation = (float(figure or 0.0) for figure in (column.mean(field.name), column.std(field.name, ddof=0)))  # pyright: ignore[reportArgumentType]
            values[field.name] = pd.Series([mean - deviation, mean + deviation])
        else:
            distinct = map_tables(column, _distinct)
            found = [value for block in tables_of(distinct) for value in block[field.name].to_pylist()]
            values[field.name] = pd.Series(found, dtype="str")
    return values


def _distinct(column: pa.Table) -> pa.Table:
    name = column.column_names[0]
    return pa.table({name: column.to_pandas()[name].explode().dropna().unique()})
