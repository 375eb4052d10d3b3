"""JSON lines: Arrow reads blocks that are sound, and only the lines of a damaged block are taken one by one."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, out of a type checker's sight)
from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from components.datasets.raw.chunk import RawChunk
from components.datasets.raw.lines import split_lines, text_blocks
from components.errors import DataError

SAMPLE_LINES = 100  # lines that tell which keys a file has and of which type they are


def read_json_lines(path: str, names: tuple[str, ...]) -> Iterator[RawChunk]:
    """Read the keys `names` of each object, null where it has none; a line that is no object becomes a row of nulls.

    Lines may also be Python literals, as in Amazon's metadata of 2014. Columns come in the types found.
    """
    for line, text in text_blocks(path):
        lines = split_lines(text)
        yield RawChunk(path, line, _parse(text, lines, names))


def json_names(path: str) -> tuple[str, ...]:
    """Return the keys of a file's first lines; empty for an empty file; raise DataError where none of them is an object."""
    for _, text in text_blocks(path):
        found = [row for row in map(parse_line, text.split("\n", SAMPLE_LINES)[:SAMPLE_LINES]) if row]
        if not found:
            raise DataError(f"{path}: expected JSON lines, one object a line, got a first line that starts with {text[:60]!r}")
        return tuple(dict.fromkeys(name for row in found for name in row))
    return ()


def parse_line(line: str) -> dict[str, Any]:
    """Read one object; empty where the line is none."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value if isinstance(value, dict) else {}
    return {}


def _parse(text: str, lines: pa.StringArray, names: tuple[str, ...]) -> pa.RecordBatch:
    if pc.all(pc.and_(pc.starts_with(lines, "{"), pc.ends_with(lines, "}"))).as_py():
        sample = [parse_line(line) for line in lines[:SAMPLE_LINES].to_pylist()]
        for numbers_as_float in (False, True):
            batch = _parse_fast(text, len(lines), {name: _type([row.get(name) for row in sample], numbers_as_float) for name in names})
            if batch is not None:
                return batch
    rows = [parse_line(line) for line in lines.to_pylist()]
    return pa.RecordBatch.from_arrays([to_array([row.get(name) for row in rows]) for name in names], names=list(names))


def _parse_fast(text: str, rows: int, types: dict[str, pa.DataType | None]) -> pa.RecordBatch | None:
    """Read a block whose lines all fit the types, or return None."""
    if None in types.values():
        return None
    data = text.encode()
    options = pajson.ParseOptions(explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore")
    try:
        table = pajson.read_json(io.BytesIO(data), pajson.ReadOptions(use_threads=False, block_size=len(data) + 1), options)
    except pa.ArrowInvalid:
        return None
    return table.combine_chunks().to_batches()[0] if table.num_rows == rows else None


def _type(values: list[Any], numbers_as_float: bool) -> pa.DataType | None:
    """Find the type that holds the values; None where there is no one type."""
    try:
        found = pa.infer_type(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        return None
    return pa.float64() if numbers_as_float and pa.types.is_integer(found) else found


def to_array(values: list[Any]) -> pa.Array:
    """Make a column of values of any types: mixed scalars become text, mixed lists lists of text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        pass
    if any(isinstance(value, list) for value in values):
        return pa.array([_texts(value) if isinstance(value, list) else None for value in values], pa.list_(pa.string()))
    return pa.array([_text(value) for value in values], pa.string())


def _texts(values: list[Any]) -> list[str | None]:
    return [text for value in values for text in (_texts(value) if isinstance(value, list) else [_text(value)])]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # Half of a surrogate pair is no text: it becomes U+FFFD, which the row checks find.
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
