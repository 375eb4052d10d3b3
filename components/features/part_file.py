"""One of the Parquet files that hold a table of samples. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from components import artifacts, storage

NAME = "part-{:06}.parquet"  # in the order of the rows: readers sort names
GROUP_ROWS = 1 << 16  # of a row group, which readers hold whole


@contextlib.contextmanager
def open_part(uri: str, number: int, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Open a table's part to write tables of this schema into it."""
    # Histories repeat each other, shifted by one: zstd finds that better, and in less time, than dictionaries of values do.
    with (
        storage.open_file(artifacts.join(uri, NAME.format(number)), "wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", compression_level=1, use_dictionary=False) as writer,
    ):
        yield writer


def write_rows(writer: pq.ParquetWriter, table: pa.Table) -> None:
    """Append rows to a part."""
    writer.write_table(table, GROUP_ROWS)
