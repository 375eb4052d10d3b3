"""Raw Arrow columns as canonical pandas columns. Nothing here raises: what can't be understood becomes missing."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, out of a type checker's sight)
from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

EPOCH_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # ticks a second
EXACT_INT = 2.0**53
TRUTH = {"true": "1", "false": "0"}


def as_text(column: pa.Array) -> pd.Series:
    """Return text, `str`. Whole numbers lose their ".0", so that an id reads the same in every file format."""
    return _strings(column).to_pandas()


def as_number(column: pa.Array) -> pd.Series:
    """Return float64; NaN where there is no number. True and false, also as words, are 1 and 0."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_number(column.dictionary_decode())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
        return pd.Series(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    text = as_text(column)
    truth = text.str.lower().map(TRUTH)
    return pd.Series(pd.to_numeric(text.where(truth.isna(), truth), errors="coerce"), dtype=np.float64)


def as_seconds(column: pa.Array, time_format: str = "s") -> pd.Series:
    """Return whole seconds since 1970 in UTC as float64; NaN where there is no time.

    `time_format` is "s", "ms", "us" or "ns" for numbers, or a strptime format for text; Arrow times need none.
    """
    if pa.types.is_dictionary(column.type):
        return as_seconds(column.dictionary_decode(), time_format)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        ticks = pc.cast(column, pa.timestamp("s", tz=getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        return as_number(ticks)
    if time_format in EPOCH_UNITS:
        return as_number(column) // EPOCH_UNITS[time_format]
    moments = pd.to_datetime(as_text(column), format=time_format, errors="coerce", utc=True).dt.as_unit("s")
    return moments.astype(np.int64).where(moments.notna()).astype(np.float64)


def as_lists(column: pa.Array, without: tuple[str, ...] = ()) -> pd.Series:
    """Return the texts of each row's list, except nulls and `without`; None where there is no list."""
    if not is_list(column.type):
        return pa.nulls(len(column), pa.list_(pa.string())).to_pandas()
    offsets, values = _kept(column, without)
    return pa.ListArray.from_arrays(offsets, values, mask=pc.is_null(column)).to_pandas()


def as_tags(column: pa.Array, separator: str = "|") -> pd.Series:
    """Return the tags of each row: a list's texts, nested lists made flat, or a text cut at the separator. Missing is empty."""
    if not is_list(column.type):
        column = pc.split_pattern(_strings(column), separator)
    while is_list(column.type.value_type):
        starts = _offsets(column.flatten())[_offsets(column)]
        column = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), column.flatten().flatten())
    offsets, values = _kept(column, without=())
    return pa.ListArray.from_arrays(offsets, values).to_pandas()


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def list_lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    """Return the number of values in each row's list, 0 where there is none."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)


def _strings(column: pa.Array) -> pa.StringArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _strings(column.dictionary_decode())
    if pa.types.is_nested(kind):
        return pa.nulls(len(column), pa.string())
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), EXACT_INT))
        integers = pc.cast(pc.if_else(whole, column, None), pa.int64(), safe=False)
        return pc.coalesce(pc.cast(integers, pa.string()), pc.cast(pc.if_else(pc.is_nan(column), None, column), pa.string()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _valid_text(column)
    return pc.cast(column, pa.string())


def _valid_text(column: pa.Array) -> pa.StringArray:
    try:
        text = pc.cast(column, pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        raw = pc.cast(column, pa.binary()).to_pylist()
        return pa.array([None if value is None else value.decode("utf-8", "replace") for value in raw], pa.string())
    return text


def _kept(lists: pa.ListArray, without: tuple[str, ...]) -> tuple[pa.Array, pa.StringArray]:
    """Turn lists of anything into offsets and texts, leaving out the missing, the empty and those in `without`."""
    values = pc.utf8_trim_whitespace(_strings(lists.flatten()))
    kept = ~pc.is_in(values, pa.array([None, "", *without], pa.string())).to_numpy(zero_copy_only=False)
    offsets = np.r_[0, np.cumsum(kept)][_offsets(lists)]
    return pa.array(offsets, pa.int32()), values.filter(pa.array(kept))


def _offsets(lists: pa.ListArray) -> NDArray[np.int64]:
    """Return where each row starts in `lists.flatten()`, which leaves out what null rows and slices hide."""
    return np.r_[0, np.cumsum(list_lengths(lists))]
