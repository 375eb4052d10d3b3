"""Amazon reviews (McAuley's releases of 2014, 2018 and 2023): JSON lines of reviews, with or without item metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd
import pyarrow as pa

from components import artifacts
from components.datasets.raw.folder import list_files, require_columns, require_files
from components.datasets.raw.json_lines import json_names, read_json_lines
from components.datasets.raw.kcore import k_core
from components.datasets.raw.lines import require_lines
from components.datasets.raw.values import as_number, as_seconds, as_tags, as_text
from components.errors import ConfigError, DataError
from components.types import Field, FieldKind, Schema, Source, Tables

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
PRICE = r"^\s*\$?\s*(\d[\d,]*(?:\.\d+)?)"
METADATA_FIELDS = (Field("categories", FieldKind.TAGS), Field("brand", FieldKind.CATEGORICAL), Field("price", FieldKind.NUMERIC))


@dataclass(frozen=True)
class Keys:
    """What a release calls the parts of a review."""

    user: str
    item: str
    rating: str
    time: str
    time_format: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, self.item, self.rating, self.time)


RELEASES = (
    Keys("user_id", "parent_asin", "rating", "timestamp", "ms"),
    Keys("user_id", "asin", "rating", "timestamp", "ms"),
    Keys("reviewerID", "asin", "overall", "unixReviewTime", "s"),
)


class Core:
    """The users and items that the k-core filter keeps; found by one pass over the reviews, when it is first asked for."""

    def __init__(self, reviews: tuple[str, ...], keys: Keys, k: int) -> None:
        self._reviews, self._keys, self._k = reviews, keys, k

    @property
    def users(self) -> pd.Index | None:
        """The kept users; None keeps all."""
        return self._kept[0]

    @property
    def items(self) -> pd.Index | None:
        """The kept items; None keeps all."""
        return self._kept[1]

    @cached_property
    def _kept(self) -> tuple[pd.Index | None, pd.Index | None]:
        if not self._k:
            return None, None
        chunks = (chunk.columns.columns for path in self._reviews for chunk in read_json_lines(path, (self._keys.user, self._keys.item)))
        users, items = k_core(((as_text(user), as_text(item)) for user, item in chunks), self._k)
        if users.empty:
            where = ", ".join(self._reviews)
            raise DataError(f"expected users and items with at least {self._k} reviews in {where}; found none (--dataset.k-core)")
        return users, items

    def __getstate__(self) -> dict[str, Any]:
        """Travel with what was found, so that no worker looks for it again."""
        return {**self.__dict__, "_kept": self._kept}


class Amazon:
    """Reviews as interactions, `reviews*.json[.gz]`; item titles and fields from `meta*.json[.gz]` where there is one."""

    @dataclass(frozen=True)
    class Config:
        """How Amazon reviews are read."""

        reviews: str = ""
        """Review file in the data folder; empty: every .json or .jsonl file (also .gz) whose name does not begin with "meta"."""
        metadata: str = ""
        """Item metadata file in the data folder; empty: every such file whose name begins with "meta", if any."""
        positive_above: float = 4.0
        """Ratings (1 to 5) above this are positive."""
        k_core: int = 5
        """Keep users and items with at least this many reviews of one another, found by repeated filtering; 0 keeps all."""
        item_noun: str = "product"
        """How prompts name an item."""

        def __post_init__(self) -> None:
            if not 1 <= self.positive_above < 5:
                raise ConfigError(f"dataset.positive_above: expected a rating in [1, 5), got {self.positive_above}")
            if self.k_core < 0:
                raise ConfigError(f"dataset.k_core: expected 0 or more, got {self.k_core}")
            if not self.item_noun:
                raise ConfigError("dataset.item_noun: expected a word, got an empty text")

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, folder: str) -> Tables:
        """Find the files; raises DataError where there are no reviews."""
        reviews, metadata = self._files(folder)
        for path in (*reviews, *metadata):
            require_lines(path, f"JSON lines, one {'review' if path in reviews else 'item'} a line")
        keys = _release(reviews)
        core = Core(reviews, keys, self.config.k_core)
        fields = METADATA_FIELDS if metadata else ()
        return Tables(
            schema=Schema(1.0, 5.0, self.config.positive_above, item_fields=fields, item_noun=self.config.item_noun),
            interactions=tuple(Source(path, partial(_interactions, path, keys, core)) for path in reviews),
            # One source reads all metadata, so that no item comes twice; the others stand for their files.
            items=(
                Source((metadata or reviews)[0], partial(_items, metadata, reviews, keys, core)),
                *(Source(path, _nothing) for path in metadata[1:]),
            ),
        )

    def _files(self, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        require_files(folder, [name for name in (self.config.reviews, self.config.metadata) if name], "")
        found = [path for path in list_files(folder) if path.lower().endswith(SUFFIXES)]
        meta = [path for path in found if path.rsplit("/", 1)[-1].lower().startswith("meta")]
        reviews = [artifacts.join(folder, self.config.reviews)] if self.config.reviews else [path for path in found if path not in meta]
        if not reviews:
            raise DataError(f"expected Amazon reviews, a file named {' or '.join(SUFFIXES)}, in the folder {folder}; found none")
        return tuple(reviews), (artifacts.join(folder, self.config.metadata),) if self.config.metadata else tuple(meta)


def _release(reviews: tuple[str, ...]) -> Keys:
    """Find out which release the reviews come from; all files must be of one."""
    found = json_names(reviews[0])
    keys = next((keys for keys in RELEASES if set(keys.names) <= set(found)), RELEASES[-1])
    for path in reviews:
        require_columns(path, keys.names, json_names(path))
    return keys


def _nothing() -> Iterator[pd.DataFrame]:
    yield from ()


def _interactions(path: str, keys: Keys, core: Core) -> Iterator[pd.DataFrame]:
    for chunk in read_json_lines(path, keys.names):
        user, item, rating, time = chunk.columns.columns
        user_id, item_id, seconds = as_text(user), as_text(item), as_seconds(time, keys.time_format)
        frame = chunk.frame({"user_id": user_id, "item_id": item_id, "rating": as_number(rating), "timestamp_s": seconds})
        kept = _within(user_id, core.users) & _within(item_id, core.items)
        # A row without an id is in no core, yet it must reach the row checks.
        yield _rows(frame, kept | user_id.isna() | item_id.isna())


def _items(metadata: tuple[str, ...], reviews: tuple[str, ...], keys: Keys, core: Core) -> Iterator[pd.DataFrame]:
    """Yield the items with metadata, then those that are known by their reviews alone."""
    kept = core.items
    seen: set[str] = set()
    for path in metadata:
        for item_id, frame in _described(path, keys.item):
            chosen = _rows(frame, _within(item_id, kept) | item_id.isna())
            seen.update(chosen["item_id"].dropna())
            yield chosen
    for path in reviews:
        for chunk in read_json_lines(path, (keys.item,)):
            item_id = as_text(chunk.columns.column(0))
            frame = chunk.frame({"item_id": item_id, **_undescribed(item_id, bool(metadata))})
            known = item_id.isna() | item_id.isin(list(seen)) | item_id.duplicated()
            chosen = _rows(frame, _within(item_id, kept) & ~known)
            seen.update(chosen["item_id"])
            yield chosen


def _described(path: str, item: str) -> Iterator[tuple[pd.Series, pd.DataFrame]]:
    names = (item, "title", "categories", "category", "brand", "store", "price")
    for chunk in read_json_lines(path, names):
        item_id, title, categories, category, brand, store, price = chunk.columns.columns
        ids, brands = as_text(item_id), as_text(brand).fillna(as_text(store))
        tags = _either(as_tags(categories), as_tags(category))
        values = {"title": _title(as_text(title), ids), "categories": tags, "brand": brands, "price": _price(price)}
        yield ids, chunk.frame({"item_id": ids, **values})


def _undescribed(item_id: pd.Series, has_fields: bool) -> dict[str, pd.Series]:
    missing, empty = pd.Series(None, item_id.index, dtype="str"), pd.Series([[]] * len(item_id), dtype=object)
    fields = {"categories": empty, "brand": missing, "price": pd.Series(float("nan"), item_id.index)}
    return {"title": _title(missing, item_id), **(fields if has_fields else {})}


def _title(title: pd.Series, item_id: pd.Series) -> pd.Series:
    return title.where(title.str.strip() != "").fillna("item " + item_id)


def _either(first: pd.Series, second: pd.Series) -> pd.Series:
    """Return each row's distinct tags, of the one list that has any."""
    return pd.Series([list(dict.fromkeys([*one, *other])) for one, other in zip(first, second, strict=True)], dtype=object)


def _price(price: pa.Array) -> pd.Series:
    """Return the (lowest) price in dollars: 19.99, "$1,299.00" or "$10.99 - $20.99"."""
    digits = as_text(price).str.extract(PRICE, expand=False).str.replace(",", "")
    return pd.Series(pd.to_numeric(digits, errors="coerce"), dtype=float)


def _rows(frame: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
    return frame.loc[chosen].reset_index(drop=True)


def _within(ids: pd.Series, kept: pd.Index | None) -> pd.Series:
    return pd.Series(True if kept is None else kept.get_indexer(ids) >= 0, ids.index, dtype=bool)
