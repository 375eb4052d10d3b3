"""A user's own table: one file or a folder of files, its format known by the file's name."""

from __future__ import annotations

from collections.abc import Iterator

from components.datasets.raw.chunk import RawChunk
from components.datasets.raw.delimited import csv_names, read_csv
from components.datasets.raw.folder import list_files
from components.datasets.raw.json_lines import json_names, read_json_lines
from components.datasets.raw.lines import text_blocks
from components.datasets.raw.parquet import parquet_facts, read_parquet
from components.errors import DataError

SUFFIXES = {"parquet": "parquet", "pq": "parquet", "csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "ndjson": "json"}
TAB = "\t"


def table_files(uri: str) -> list[str]:
    """Return the files of a table; raise DataError where there is none of a known format."""
    files = [path for path in list_files(uri) if _format(path)]
    if not files:
        known = ", ".join(f".{name}" for name in SUFFIXES)
        raise DataError(f"expected a file, or a folder of files, named {known} (also .gz) at {uri}; found none")
    return files


def column_names(path: str, separator: str) -> tuple[str, ...]:
    """Return the names of a file's columns, read from its first bytes; empty for an empty text file."""
    if _format(path) == "parquet":
        return parquet_facts(path)[0]
    if _format(path) == "json":
        return json_names(path)
    return csv_names(path, _separator(path, separator))


def has_rows(path: str) -> bool:
    """Tell whether a file has any row, reading no more than its beginning."""
    if _format(path) == "parquet":
        return parquet_facts(path)[1] > 0
    _, text = next(text_blocks(path), (1, ""))
    return "\n" in text if _format(path) in ("csv", "tsv") else bool(text)


def read_table(path: str, names: tuple[str, ...], separator: str) -> Iterator[RawChunk]:
    """Read the columns `names` (a CSV file gives all it has); `separator` is that of .csv files."""
    if _format(path) == "parquet":
        return read_parquet(path, names)
    if _format(path) == "json":
        return read_json_lines(path, names)
    return read_csv(path, _separator(path, separator))


def _format(path: str) -> str | None:
    name = path.lower().removesuffix(".gz")
    return SUFFIXES.get(name.rsplit(".", 1)[-1])


def _separator(path: str, separator: str) -> str:
    return TAB if _format(path) == "tsv" else separator
