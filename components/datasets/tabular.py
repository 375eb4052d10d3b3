"""A user's own tables, Parquet, CSV or JSON lines: interactions, and users and items where there are any."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd
import pyarrow as pa

from components import artifacts
from components.datasets.raw.folder import require_columns
from components.datasets.raw.table import column_names, has_rows, read_table, table_files
from components.datasets.raw.values import EPOCH_UNITS, as_number, as_seconds, as_tags, as_text
from components.errors import ConfigError, DataError
from components.types import Field, FieldKind, Schema, Source, Tables

RESERVED = (
    *("user_id", "item_id", "title", "rating", "label", "timestamp_s", "file", "row", "split", "table", "reason", "content"),
    *("user_row", "item_row", "history_rows", "history_ratings", "history_items", "earlier_count", "train_count", "train_rating_mean"),
    *("bucket", "order", "part", "token_ids", "prefix_length", "p_crm", "p_llm", "item_popularity", "user_popularity"),
)


class Tabular:
    """One table of interactions and, optionally, one of users and one of items; each a file or a folder of files.

    In CSV a line is a row: fields may be quoted, but hold no line break.
    """

    @dataclass(frozen=True)
    class Config:
        """Where the tables are and what their columns mean. Field names must differ between the three tables."""

        interactions: str = "interactions.parquet"
        """File or folder of interactions, below the data folder (.parquet, .csv, .tsv or .jsonl, also .gz)."""
        users: str = ""
        """File or folder of users; empty: users are known by their ids alone."""
        items: str = ""
        """File or folder of items; empty: items are known by their ids alone."""
        user: str = "user_id"
        """Column of the user id, in interactions and users."""
        item: str = "item_id"
        """Column of the item id, in interactions and items."""
        rating: str = "rating"
        """Column of the rating, in interactions; not read where `label` is given."""
        label: str = ""
        """Column of a 0/1 label, in interactions, instead of a rating."""
        time: str = "timestamp"
        """Column of the time, in interactions."""
        time_format: str = "s"
        """Unit of a number since 1970 (s, ms, us, ns) or the format of a text, such as "%Y-%m-%d %H:%M:%S"."""
        rating_min: float = 1.0
        """Lowest rating there can be."""
        rating_max: float = 5.0
        """Highest rating there can be."""
        positive_above: float = 3.0
        """Ratings above this are positive."""
        title: str = "title"
        """Column of the title, in items; empty: items are called "item <id>"."""
        item_noun: str = "item"
        """How prompts name an item: movie, book."""
        separator: str = ","
        """Separator of the fields of .csv files."""
        tag_separator: str = "|"
        """Separator of the tags in a column that holds text."""
        user_categorical: tuple[str, ...] = ()
        """Columns of users with one value each."""
        user_numeric: tuple[str, ...] = ()
        """Columns of users with a number."""
        user_tags: tuple[str, ...] = ()
        """Columns of users with a list of values."""
        user_text: tuple[str, ...] = ()
        """Columns of users that only the LLM reads."""
        item_categorical: tuple[str, ...] = ()
        """Columns of items with one value each."""
        item_numeric: tuple[str, ...] = ()
        """Columns of items with a number."""
        item_tags: tuple[str, ...] = ()
        """Columns of items with a list of values."""
        item_text: tuple[str, ...] = ()
        """Columns of items that only the LLM reads."""
        context_categorical: tuple[str, ...] = ()
        """Columns of interactions, known before they happen, with one value each."""
        context_numeric: tuple[str, ...] = ()
        """Columns of interactions, known before they happen, with a number."""
        context_tags: tuple[str, ...] = ()
        """Columns of interactions, known before they happen, with a list of values."""
        context_text: tuple[str, ...] = ()
        """Columns of interactions, known before they happen, that only the LLM reads."""

        def __post_init__(self) -> None:
            _check_columns(self)
            _check_values(self)

        @property
        def user_fields(self) -> tuple[Field, ...]:
            return _fields(self.user_categorical, self.user_numeric, self.user_tags, self.user_text)

        @property
        def item_fields(self) -> tuple[Field, ...]:
            return _fields(self.item_categorical, self.item_numeric, self.item_tags, self.item_text)

        @property
        def context_fields(self) -> tuple[Field, ...]:
            return _fields(self.context_categorical, self.context_numeric, self.context_tags, self.context_text)

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, folder: str) -> Tables:
        """Find the files and their columns; raises DataError where one is missing or empty, ConfigError where no time is read."""
        config = self.config
        interactions = (config.user, config.item, config.label or config.rating, config.time, *_names(config.context_fields))
        users = (config.user, *_names(config.user_fields))
        items = (config.item, *((config.title,) if config.title else ()), *_names(config.item_fields))
        found = _sources(folder, config.interactions, config, interactions, _interactions)
        _require_times(found[0].path, config)
        return Tables(
            schema=self._schema(),
            interactions=found,
            users=_sources(folder, config.users, config, users, _users) if config.users else (),
            items=_sources(folder, config.items, config, items, _items) if config.items else (),
        )

    def _schema(self) -> Schema:
        config = self.config
        low, high, threshold = (0.0, 1.0, 0.5) if config.label else (config.rating_min, config.rating_max, config.positive_above)
        return Schema(low, high, threshold, config.user_fields, config.item_fields, config.context_fields, config.item_noun)


Config = Tabular.Config
Read = Callable[[str, Config, tuple[str, ...]], Iterator[pd.DataFrame]]


def _sources(folder: str, name: str, config: Config, columns: tuple[str, ...], read: Read) -> tuple[Source, ...]:
    """Make one source a file, once all of them are known to have the columns and one of them a row."""
    columns = tuple(dict.fromkeys(columns))
    try:
        paths = table_files(artifacts.join(folder, name))
    except DataError as error:
        raise DataError(f"{error} (dataset.interactions, .users and .items name the tables)") from error
    filled = [path for path in paths if has_rows(path)]
    if not filled:
        raise DataError(f"expected rows in {', '.join(paths)}; the table is empty")
    for path in filled:
        require_columns(path, columns, column_names(path, config.separator))
    return tuple(Source(path, partial(read, path, config, columns)) for path in filled)


def _require_times(path: str, config: Config) -> None:
    """Raise ConfigError where none of a file's first times is what `time_format` says: every row would be in quarantine."""
    for chunk in read_table(path, (config.time,), config.separator):
        times = chunk.columns.column(config.time)
        shown = as_text(times).dropna()
        if len(shown) and as_seconds(times, config.time_format).isna().all():
            raise ConfigError(
                f"dataset.time_format: expected the format of times like {shown.iloc[0]!r} in {path}, such as %Y-%m-%d or "
                f'"%Y-%m-%d %H:%M:%S", got {config.time_format!r}'
            )
        return


def _interactions(path: str, config: Config, columns: tuple[str, ...]) -> Iterator[pd.DataFrame]:
    for chunk in read_table(path, columns, config.separator):
        found = chunk.columns
        yield chunk.frame(
            {
                "user_id": as_text(found.column(config.user)),
                "item_id": as_text(found.column(config.item)),
                "rating": as_number(found.column(config.label or config.rating)),
                "timestamp_s": as_seconds(found.column(config.time), config.time_format),
                **_values(found, config.context_fields, config.tag_separator),
            }
        )


def _users(path: str, config: Config, columns: tuple[str, ...]) -> Iterator[pd.DataFrame]:
    for chunk in read_table(path, columns, config.separator):
        fields = _values(chunk.columns, config.user_fields, config.tag_separator)
        yield chunk.frame({"user_id": as_text(chunk.columns.column(config.user)), **fields})


def _items(path: str, config: Config, columns: tuple[str, ...]) -> Iterator[pd.DataFrame]:
    for chunk in read_table(path, columns, config.separator):
        item_id = as_text(chunk.columns.column(config.item))
        title = as_text(chunk.columns.column(config.title)) if config.title else pd.Series(None, item_id.index, dtype="str")
        fields = _values(chunk.columns, config.item_fields, config.tag_separator)
        yield chunk.frame({"item_id": item_id, "title": title.fillna("item " + item_id), **fields})


def _values(columns: pa.RecordBatch, fields: tuple[Field, ...], tag_separator: str) -> dict[str, pd.Series]:
    values: dict[str, pd.Series] = {}
    for field in fields:
        column = columns.column(field.name)
        if field.kind is FieldKind.TAGS:
            values[field.name] = as_tags(column, tag_separator)
        else:
            values[field.name] = as_number(column) if field.kind is FieldKind.NUMERIC else as_text(column)
    return values


def _fields(categorical: tuple[str, ...], numeric: tuple[str, ...], tags: tuple[str, ...], text: tuple[str, ...]) -> tuple[Field, ...]:
    kinds = (FieldKind.CATEGORICAL, FieldKind.NUMERIC, FieldKind.TAGS, FieldKind.TEXT)
    return tuple(Field(name, kind) for kind, names in zip(kinds, (categorical, numeric, tags, text), strict=True) for name in names)


def _names(fields: tuple[Field, ...]) -> tuple[str, ...]:
    return tuple(field.name for field in fields)


def _check_columns(config: Config) -> None:
    names = _names((*config.user_fields, *config.item_fields, *config.context_fields))
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(f"dataset: expected field names that differ between users, items and interactions, got {twice} more than once")
    taken = sorted(set(names) & set(RESERVED))
    if taken:
        raise ConfigError(f"dataset: expected field names other than {taken}, which Tandem's own columns have; rename these columns")
    for table, fields in (("users", config.user_fields), ("items", config.item_fields)):
        if fields and not getattr(config, table):
            raise ConfigError(f"dataset.{table}: expected a file that holds the columns {list(_names(fields))}, got none")
    required = ("interactions", "user", "item", "time", "item_noun", "separator", "tag_separator")
    empty = [name for name in required if not getattr(config, name)]
    if empty or not (config.rating or config.label):
        raise ConfigError(f"dataset.{(empty or ['rating'])[0]}: expected a value, got an empty text")
    if config.label and config.rating not in ("", "rating"):
        raise ConfigError(f"dataset: expected a rating column or a label column, got both ({config.rating!r} and {config.label!r})")


def _check_values(config: Config) -> None:
    low, high, threshold = config.rating_min, config.rating_max, config.positive_above
    if not (math.isfinite(low) and math.isfinite(high) and low <= threshold < high):
        raise ConfigError(f"dataset: expected rating_min <= positive_above < rating_max, got {low}, {threshold} and {high}")
    if config.time_format not in EPOCH_UNITS and "%" not in config.time_format:
        units = ", ".join(EPOCH_UNITS)
        raise ConfigError(f"dataset.time_format: expected one of {units} or a format such as %Y-%m-%d, got {config.time_format!r}")
    if len(config.separator) != 1:
        raise ConfigError(f"dataset.separator: expected one character, got {config.separator!r}")
