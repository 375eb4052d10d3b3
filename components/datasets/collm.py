"""The MovieLens-1M click split published with CoLLM (arXiv 2310.19488): liked items as history, splits disjoint in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from components import artifacts
from components.datasets.raw.chunk import RawChunk
from components.datasets.raw.folder import require_files
from components.datasets.raw.json_lines import read_json_lines
from components.datasets.raw.lines import require_lines
from components.datasets.raw.values import as_lists, as_number, as_seconds, as_text, is_list, list_lengths
from components.types import Schema, Source, Tables

SPLITS = ("train", "valid", "test")
FILES = tuple(f"{split}.jsonl.gz" for split in SPLITS)
PAD = "0"  # the item id with which each published history starts


class CollmMl1m:
    """33,891 train, 10,401 valid and 7,331 test rows; the folder holds `train.jsonl.gz`, `valid.jsonl.gz` and `test.jsonl.gz`."""

    @dataclass(frozen=True)
    class Config:
        """How the CoLLM split is read: as published, nothing to choose."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, folder: str) -> Tables:
        """Find the three files; raises DataError naming those that are missing."""
        require_files(folder, FILES, "Each line is an object with uid, iid, label, timestamp, title, his and his_title.")
        paths = {split: artifacts.join(folder, name) for split, name in zip(SPLITS, FILES, strict=True)}
        for path in paths.values():
            require_lines(path, "JSON lines, one interaction a line")
        return Tables(
            schema=Schema(0.0, 1.0, 0.5, item_noun="movie", shipped_split=True),
            interactions=tuple(Source(path, partial(_interactions, path, split)) for split, path in paths.items()),
            items=(Source(paths["train"], partial(_items, tuple(paths.values()))),),
        )


def _interactions(path: str, split: str) -> Iterator[pd.DataFrame]:
    # The publisher's marks `flag` and `not_cold` are made from all splits: never features.
    for chunk in read_json_lines(path, ("uid", "iid", "label", "timestamp", "his")):
        user, item, label, time, history = chunk.columns.columns
        ids = {"user_id": as_text(user), "item_id": as_text(item)}
        frame = chunk.frame({**ids, "rating": as_number(label), "timestamp_s": as_seconds(time)})
        yield frame.assign(split=pd.Series(split, frame.index, dtype="str"), history_items=as_lists(history, without=(PAD,)))


def _items(paths: tuple[str, ...]) -> Iterator[pd.DataFrame]:
    """Collect the distinct items of all rows and histories; a few thousand, so one chunk."""
    names = ("iid", "title", "his", "his_title")
    found = pd.concat([_titles(chunk) for path in paths for chunk in read_json_lines(path, names)], ignore_index=True)
    found = found.sort_values("title", key=lambda title: title.isna(), kind="stable").drop_duplicates("item_id").sort_index()
    yield found.assign(title=found["title"].fillna("item " + found["item_id"])).reset_index(drop=True)


def _titles(chunk: RawChunk) -> pd.DataFrame:
    """Return the distinct (item, title) pairs of a chunk, with the first row that shows each."""
    item, title, history, history_title = chunk.columns.columns
    own = chunk.frame({"item_id": as_text(item), "title": as_text(title)})
    pairs = pd.concat([own, _earlier_titles(own, history, history_title)], ignore_index=True)
    return pairs.dropna(subset=["item_id"]).drop_duplicates(["item_id", "title"])


def _earlier_titles(own: pd.DataFrame, history: pa.Array, history_title: pa.Array) -> pd.DataFrame:
    """Return the (item, title) pairs of the histories, from rows that have as many titles as items."""
    if not (is_list(history.type) and is_list(history_title.type)):
        return own.head(0)
    counts = [list_lengths(lists) for lists in (history, history_title)]
    whole = counts[0] == counts[1]
    owner = np.repeat(np.flatnonzero(whole), counts[0][whole])
    item, title = (as_text(lists.filter(pa.array(whole)).flatten()) for lists in (history, history_title))
    pairs = pd.DataFrame({"item_id": item, "title": title.where(title != ""), "owner": owner})
    pairs = pairs.loc[pairs["item_id"] != PAD].drop_duplicates(["item_id", "title"])
    return pairs.join(own[["file", "row"]], on="owner").drop(columns="owner")
