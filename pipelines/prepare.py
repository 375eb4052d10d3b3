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
from components.features.store import fit_store
from components.features.tables import save_store
from components.types import FieldKind, Schema, Source, Tables
from pipelines.cluster import where, write_parts
from pipelines.stage import StageContext

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
            raise ConfigError(f"prepare: expected fractions that leave rows to test on, got {self.train_fraction} and {self.valid_fraction}")
        if not 0 <= self.max_bad_fraction < 1:
            raise ConfigError(f"prepare.max_bad_fraction: expected a share in [0, 1), got {self.max_bad_fraction}")


def run(context: StageContext, tables: Tables, config: Config) -> None:
    """Write the artifact `tables/`; raises DataError where the data can't be used."""
    schema, now_s = tables.schema, time.time()
    quarantine = Quarantine(artifacts.join(context.folder, "quarantine.parquet"))
    users = _dimension("users", "user_id", tables.users, schema, quarantine)
    items = _dimension("items", "item_id", tables.items, schema, quarantine)
    checked = _check(tables, items, now_s).materialize()
    context.progress.say(f"{checked.count():,} interactions read and checked")
    users = _complete(users, "user_id", checked, [field.name for field in schema.user_fields])
    items = _complete(items, "item_id", checked, ["title", *(field.name for field in schema.item_fields)])
    built = _build(checked, users, items, schema, config).materialize()
    for dataset in (checked, built):
        for bad in where(dataset, "reason", "!=", "").iter_batches(batch_format="pandas", batch_size=None):
            quarantine.add(bad[["table", "file", "row", "reason", "content"]])
    quarantine.close({"interactions": checked.count(), "users": len(users), "items": len(items)}, config.max_bad_fraction)
    context.facts["quarantine"] = quarantine.counts
    context.facts["work"] = (checked.count(), "interactions")
    context.progress.say(f"histories built; {sum(quarantine.counts.values()):,} bad rows in quarantine")
    samples = _split(where(built, "reason", "==", ""), schema, config).materialize()
    rows = _write(samples, context)
    _require_rows(rows, config)
    users, items = _count_training(samples, users, items)
    store = fit_store(schema, users, items, _context_values(samples, schema), config.history_length, config.tag_width)
    save_store(store, context.folder)


def _dimension(table: str, key: str, sources: tuple[Source, ...], schema: Schema, quarantine: Quarantine) -> pd.DataFrame | None:
    """Read users or items, send bad rows to quarantine and return the good ones; None where the data set has no such table."""
    if not sources:
        return None
    check = checks.check_users if table == "users" else checks.check_items
    frame = pd.concat([chunk for source in sources for chunk in source.read()], ignore_index=True)
    reasons = check(frame, schema)
    reasons = reasons.where(reasons != "", checks.duplicate_reasons(frame, [key]))
    quarantine.add(checks.quarantined(frame[reasons != ""], reasons[reasons != ""], table))
    good = frame[reasons == ""].drop(columns=["file", "row"])
    if good.empty:
        raise DataError(f"expected at least one usable row of {table}, got none of {len(frame)}: {quarantine.counts}")
    return good


def _check(tables: Tables, items: pd.DataFrame | None, now_s: float) -> Dataset:
    """Read interactions file by file and mark each bad row with its reason; the marked rows keep their content as text."""
    known_items = ray.put(None if items is None else pd.Index(items["item_id"]))
    schema = tables.schema

    def read(batch: dict[str, np.ndarray]) -> Iterator[pd.DataFrame]:
        known = ray.get(known_items)
        for position in batch["item"]:
            for chunk in tables.interactions[position].read():
                reasons = checks.check_interactions(chunk, schema, known, now_s)
                yield _marked(chunk, reasons, schema)

    sources = ray.data.from_items(list(range(len(tables.interactions))), override_num_blocks=len(tables.interactions))
    return sources.map_batches(read, batch_size=1, zero_copy_batch=True)


def _marked(chunk: pd.DataFrame, reasons: pd.Series, schema: Schema) -> pd.DataFrame:
    """Keep what samples need of a chunk, with the reason of each bad row and that row's content."""
    names = ["user_id", "item_id", "rating", "timestamp_s", "file", "row", *(field.name for field in schema.context_fields)]
    if schema.shipped_split:
        names += ["split", "history_items"]
    bad = reasons != ""
    marked = chunk[names].assign(table="interactions", reason=reasons, content="")
    marked.loc[bad, "content"] = checks.quarantined(chunk[bad], reasons[bad], "interactions")["content"].to_numpy()
    marked["timestamp_s"] = marked["timestamp_s"].where(~bad, 0).astype("int64")
    return marked


def _complete(known: pd.DataFrame | None, key: str, checked: Dataset, columns: list[str]) -> pd.DataFrame:
    """Return the table with a row for every id that occurs, in natural order; ids without a row of their own get empty fields."""
    good = where(checked, "reason", "==", "").select_columns([key])
    distinct = good.map_batches(lambda table: pa.table({key: table[key].unique()}), batch_format="pyarrow", batch_size=None)
    seen: set[str] = set()
    for batch in distinct.iter_batches(batch_format="pyarrow", batch_size=None):
        seen.update(batch[key].to_pylist())
    if not seen:
        raise DataError("expected at least one usable interaction, got none: every row is in quarantine")
    frame = pd.DataFrame(columns=pd.Index([key, *columns])) if known is None else known
    missing = pd.DataFrame({key: sorted(seen - set(frame[key]))})
    whole = pd.concat([frame, missing], ignore_index=True) if len(missing) else frame
    whole = whole.assign(order=split.natural_key(whole[key])).sort_values("order", kind="stable", ignore_index=True)
    return whole.drop(columns="order")


def _build(checked: Dataset, users: pd.DataFrame, items: pd.DataFrame, schema: Schema, config: Config) -> Dataset:
    """Bring each user's interactions together, attach histories and labels; later copies of a row carry a reason."""
    indexes = ray.put((pd.Index(users["user_id"]), pd.Index(items["item_id"])))
    buckets = 1 + checked.count() // BUCKET_ROWS

    def link(frame: pd.DataFrame) -> pd.DataFrame:
        user_index, item_index = ray.get(indexes)
        user_row = user_index.get_indexer(frame["user_id"]).astype(np.int32)
        return frame.assign(user_row=user_row, item_row=item_index.get_indexer(frame["item_id"]).astype(np.int32), bucket=user_row % buckets)

    def build(bucket: pd.DataFrame) -> pa.Table:
        reasons = checks.duplicate_reasons(bucket, ["user_id", "item_id", "timestamp_s"])
        bad = checks.quarantined(bucket[reasons != ""], reasons[reasons != ""], "interactions")
        good = bucket[reasons == ""]
        samples = to_samples(good, schema, config.history_length, config.min_history, config.hide_same_second)
        marks = pa.Table.from_pandas(bad, QUARANTINE, preserve_index=False)
        empty = pa.table({"reason": pa.array([""] * samples.num_rows, pa.string())})
        return pa.concat_tables([samples.append_column("reason", empty["reason"]), marks], promote_options="permissive")

    linked = where(checked, "reason", "==", "").map_batches(link, batch_format="pandas")
    return linked.groupby("bucket", num_partitions=min(buckets, 64)).map_groups(build, batch_format="pandas")


def _split(samples: Dataset, schema: Schema, config: Config) -> Dataset:
    """Give each sample its split: as published, or by the two cuts in global time."""
    if schema.shipped_split:
        return samples
    rows = samples.count()
    sizes = split.split_sizes(rows, config.train_fraction, config.valid_fraction)
    if min(sizes) < 1:
        raise DataError(f"expected samples for train, valid and test, got {rows} samples with at least {config.min_history} earlier interactions")
    cuts = _cuts(samples, (sizes[0], sizes[0] + sizes[1]))

    def name(table: pa.Table) -> pa.Table:
        keys = table.select(["timestamp_s", "user_row", "item_row"]).to_pandas()
        part = 2 - np.stack([split.is_before(cut, keys) for cut in cuts]).sum(0)
        return table.append_column("split", pa.array(np.array(split.SPLITS)[part]))

    return samples.map_batches(name, batch_format="pyarrow", batch_size=None)


def _cuts(samples: Dataset, ranks: tuple[int, ...]) -> list[split.Cut]:
    """Find the cuts before the rows of these ranks in the order (time, user, item), without sorting the table."""
    keys = samples.select_columns(["timestamp_s", "user_row", "item_row"])
    first_s, last_s = int(keys.min("timestamp_s")), int(keys.max("timestamp_s"))  # pyright: ignore[reportArgumentType]

    def count(batch: pd.DataFrame) -> pd.DataFrame:
        bins = split.time_bins(first_s, last_s, batch["timestamp_s"].to_numpy())
        return pd.DataFrame({"bin": np.unique(bins), "rows": np.unique(bins, return_counts=True)[1]})

    counts = np.zeros(split.BINS, np.int64)
    for part in keys.map_batches(count, batch_format="pandas", batch_size=None).iter_batches(batch_format="pandas", batch_size=None):
        np.add.at(counts, part["bin"].to_numpy(), part["rows"].to_numpy())
    cuts: list[split.Cut] = []
    for rank in ranks:
        found, rank_in_bin = split.bin_of_rank(counts, rank)
        inside = keys.map_batches(_in_bin, fn_args=(first_s, last_s, found), batch_format="pandas", batch_size=None)
        cuts.append(split.cut_at(inside.to_pandas(limit=None), rank_in_bin))
    return cuts


def _in_bin(batch: pd.DataFrame, first_s: int, last_s: int, found: int) -> pd.DataFrame:
    return batch[split.time_bins(first_s, last_s, batch["timestamp_s"].to_numpy()) == found]


def _write(samples: Dataset, context: StageContext) -> dict[str, int]:
    """Write each split's samples and return their counts."""
    rows: dict[str, int] = {}
    for name in split.SPLITS:
        part = where(samples, "split", "==", name).drop_columns(["split", *QUARANTINE.names])
        write_parts(part, artifacts.join(context.folder, name))
        rows[name] = where(samples, "split", "==", name).count()
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
    for batch in train.iter_batches(batch_format="numpy", batch_size=None):
        user_count += np.bincount(batch["user_row"], minlength=len(users))
        item_count += np.bincount(batch["item_row"], minlength=len(items))
        item_sum += np.bincount(batch["item_row"], weights=batch["rating"], minlength=len(items))
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
            mean, deviation = column.mean(field.name), column.std(field.name, ddof=0)
            values[field.name] = pd.Series([mean - deviation, mean + deviation])  # pyright: ignore[reportOptionalOperand]
        else:
            distinct = column.map_batches(_distinct, batch_format="pandas", batch_size=None)
            values[field.name] = distinct.to_pandas(limit=None)[field.name]
    return values


def _distinct(batch: pd.DataFrame) -> pd.DataFrame:
    return batch.explode(batch.columns[0]).drop_duplicates()

