"""Parquet files in chunks of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from components.datasets.raw.chunk import CHUNK_ROWS, RawChunk
from components.errors import DataError


def read_parquet(path: str, names: tuple[str, ...]) -> Iterator[RawChunk]:
    """Read some columns; rows are numbered from 1. Raises DataError where the file is damaged."""
    row = 1
    with _open(path) as file:
        for batch in file.iter_batches(CHUNK_ROWS, columns=list(names)):
            yield RawChunk(path, row, batch)
            row += batch.num_rows


def parquet_facts(path: str) -> tuple[tuple[str, ...], int]:
    """Return a file's column names and number of rows, from its footer alone."""
    with _open(path) as file:
        return tuple(file.schema_arrow.names), file.metadata.num_rows


@contextlib.contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with fsspec.open(path, "rb") as file:
            yield pq.ParquetFile(file)  # pyright: ignore[reportArgumentType]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} can't be read as Parquet, it is damaged or cut off: {error}") from error
