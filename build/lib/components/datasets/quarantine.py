"""Bad rows, kept for the person who owns the data: counted, written with file, row and reason, and never used."""

from __future__ import annotations

from collections import Counter
from typing import Self

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.datasets import checks
from components.errors import DataError

SCHEMA = pa.schema([("table", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("content", pa.string())])


class Quarantine:
    """Writes bad rows to one Parquet file as they are found."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        fs, path = fsspec.core.url_to_fs(uri)
        self._file = fs.open(path, "wb")
        self._writer = pq.ParquetWriter(self._file, SCHEMA)
        self._rows: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def add(self, bad: pd.DataFrame) -> None:
        """Append rows with the columns of SCHEMA."""
        if len(bad):
            self._writer.write_table(pa.Table.from_pandas(bad, SCHEMA, preserve_index=False))
            self._rows.update(bad["table"])
            self._reasons.update((bad["table"] + ": " + checks.kinds(bad.loc[:, "reason"])).tolist())

    def count(self, table: str, rows: int) -> None:
        """Count rows of a table, good and bad ones."""
        self._totals[table] += rows

    @property
    def counts(self) -> dict[str, int]:
        """Bad rows by table and reason, most frequent first."""
        return dict(self._reasons.most_common())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.close()

    def require(self, max_bad_fraction: float) -> None:
        """Raise DataError if more than the accepted share of a table's rows is bad."""
        for table, bad in self._rows.items():
            total = self._totals[table]
            if bad > max_bad_fraction * total:
                raise DataError(
                    f"{bad:,} of {total:,} rows of {table} are bad ({bad / total:.1%}), accepted are {max_bad_fraction:.1%} "
                    f"(--prepare.max-bad-fraction): {self.counts}; every bad row is in {self.uri}"
                )
