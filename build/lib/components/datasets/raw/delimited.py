"""Delimited text: every line becomes a row, whatever it holds."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, out of a type checker's sight)
from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.datasets.raw.chunk import RawChunk
from components.datasets.raw.lines import split_lines, text_blocks
from components.errors import DataError

QUOTE = '"'


def read_delimited(path: str, names: tuple[str, ...], separator: str, encoding: str = "utf-8") -> Iterator[RawChunk]:
    """Read a file without a header and without quoting; fields are text, empty ones null.

    A line with another number of fields than `names` becomes a row of nulls, so that the row checks report it.
    """
    for line, text in text_blocks(path, encoding):
        yield RawChunk(path, line, _columns(split_lines(text), names, separator, quoted=False))


def read_csv(path: str, separator: str) -> Iterator[RawChunk]:
    """Read a CSV file whose first line names its columns. As `read_delimited`, but fields may be quoted.

    One line is one row: a quoted line break makes two rows of the wrong width, rather than hiding a stray quote's damage.
    """
    names: tuple[str, ...] | None = None
    for line, text in text_blocks(path):
        lines = split_lines(text)
        if names is None:
            names, lines, line = header_of(path, lines[0].as_py(), separator), lines[1:], line + 1
        if len(lines):
            yield RawChunk(path, line, _columns(lines, names, separator, quoted=True))


def csv_names(path: str, separator: str) -> tuple[str, ...]:
    """Return the column names of a CSV file; empty for an empty file."""
    for _, text in text_blocks(path):
        return header_of(path, split_lines(text)[0].as_py(), separator)
    return ()


def header_of(path: str, line: str, separator: str) -> tuple[str, ...]:
    """Read the column names of a header line; raise DataError where one is there twice."""
    names = tuple(name.strip() for name in next(csv.reader([line], delimiter=separator)))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: expected different column names, got {twice} more than once")
    return names


def _columns(lines: pa.StringArray, names: tuple[str, ...], separator: str, quoted: bool) -> pa.RecordBatch:
    columns = _plain_columns(lines, len(names), separator)
    has_quote = pc.match_substring(lines, QUOTE) if quoted else None
    if has_quote is not None and has_quote.true_count:
        special = _quoted_columns(lines.filter(has_quote), len(names), separator)
        columns = [pc.replace_with_mask(column, has_quote, values) for column, values in zip(columns, special, strict=True)]
    columns = [pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column) for column in columns]
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def _plain_columns(lines: pa.StringArray, width: int, separator: str) -> list[pa.StringArray]:
    parts = pc.split_pattern(lines, separator)
    whole = pc.equal(pc.list_value_length(parts), width).to_numpy(zero_copy_only=False)
    fields = parts.filter(pa.array(whole)).flatten()
    start = (np.cumsum(whole) - 1) * width
    return [fields.take(pa.array(start + number, pa.int64(), mask=~whole)) for number in range(width)]


def _quoted_columns(lines: pa.StringArray, width: int, separator: str) -> list[pa.StringArray]:
    rows = [_quoted_fields(line, width, separator) for line in lines.to_pylist()]
    return [pa.array([row[number] for row in rows], pa.string()) for number in range(width)]


def _quoted_fields(line: str, width: int, separator: str) -> list[str] | list[None]:
    try:
        fields = next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error:
        fields = []
    return fields if len(fields) == width else [None] * width
