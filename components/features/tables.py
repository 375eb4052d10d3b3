"""The prepared data set on disk: users, items and vocabularies beside the samples of each split."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from components import artifacts, storage
from components.errors import ArtifactError
from components.features.store import FeatureStore
from components.features.vocabulary import Vocabulary
from components.types import Schema

STORE_FILES = ("users.parquet", "items.parquet", "vocabulary.parquet", "features.json")


def save_store(store: FeatureStore, uri: str) -> None:
    """Write users, items and vocabularies below `uri`, readable by any Parquet tool."""
    for name, frame in (("users", store.users), ("items", store.items), ("vocabulary", _vocabulary_frame(store))):
        write_frame(frame, artifacts.join(uri, f"{name}.parquet"))
    facts = {"schema": store.schema, "numeric": dict(store.numeric), "history_length": store.history_length, "tag_width": store.tag_width}
    artifacts.write_json(artifacts.join(uri, "features.json"), facts)


def load_store(uri: str) -> FeatureStore:
    """Read back what `save_store` wrote."""
    users, items, words = (read_frame(artifacts.join(uri, f"{name}.parquet")) for name in ("users", "items", "vocabulary"))
    facts = artifacts.read_json(artifacts.join(uri, "features.json"))
    numeric = {name: (mean, deviation) for name, (mean, deviation) in facts["numeric"].items()}
    vocabularies: dict[str, Vocabulary] = {}
    for name, rows in words.groupby("field", sort=False):
        vocabularies[str(name)] = Vocabulary(str(name), int(rows["first"].iloc[0]), pd.Index(rows["value"].dropna().astype(str)))
    return FeatureStore(
        artifacts.from_plain(Schema, facts["schema"]), users, items, vocabularies, numeric, facts["history_length"], facts["tag_width"]
    )


def read_frame(uri: str) -> pd.DataFrame:
    """Read one Parquet file."""
    with storage.open_file(uri) as file:
        return pd.read_parquet(file)


def write_frame(frame: pd.DataFrame, uri: str) -> None:
    """Write one Parquet file."""
    with storage.open_file(uri, "wb") as file:
        frame.to_parquet(file, index=False)


def read_samples(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read a folder of Parquet files whole, in the order of their names."""
    return dataset(uri).to_table(columns=columns)


def first_samples(uri: str, rows: int) -> pa.Table:
    """Read the first rows of a folder of Parquet files, and no file behind those that hold them."""
    parts = dataset(uri)
    found = parts.schema.empty_table()
    for fragment in parts.get_fragments():  # Arrow's own `head` reads ahead, sixteen batches of four files
        found = pa.concat_tables([found, fragment.head(rows - found.num_rows, batch_size=rows)])
        if found.num_rows == rows:
            break
    return found


def read_scores(uri: str, split: str) -> pd.DataFrame:
    """Read one split of a score table."""
    return dataset(uri).to_table(filter=pc.field("split") == split).to_pandas()


def count_rows(uri: str) -> int:
    """Return how many rows the Parquet files of a folder say that they hold; no file is read whole."""
    try:
        return dataset(uri).count_rows()
    except ArtifactError:  # no file at all
        return 0


def dataset(uri: str) -> pads.FileSystemDataset:
    """Open a folder of Parquet files; raises ArtifactError where there is none."""
    fs, path = storage.filesystem(uri)
    files = sorted(name for name in fs.find(path) if name.endswith(".parquet"))
    if not files:
        raise ArtifactError(f"expected Parquet files below {uri}, got none")
    return pads.FileSystemDataset.from_paths(
        files, schema=pq.read_schema(files[0], filesystem=fs), format=pads.ParquetFileFormat(), filesystem=storage.arrow(uri)[0]
    )


def _vocabulary_frame(store: FeatureStore) -> pd.DataFrame:
    # A field without values keeps one null row, so that its unknown row is known again.
    frames = [
        pd.DataFrame({"field": name, "first": words.first, "value": list(words.values) or [None]})
        for name, words in store.vocabularies.items()
    ]
    return pd.concat(frames, ignore_index=True)
