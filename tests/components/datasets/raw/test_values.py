from __future__ import annotations

import datetime as dt
import decimal
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets.raw.values import as_lists, as_number, as_seconds, as_tags, as_text

DAY = dt.datetime(1970, 1, 2)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, 30]), ["1", None, "30"]),
        (pa.array([1.0, None, 2.5, math.nan]), ["1", None, "2.5", None]),  # an id with gaps in Parquet is a float
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.array([b"a\xff"]), ["a\ufffd"]),
        (pa.array([{"a": 1}]), [None]),
        (pa.nulls(1), [None]),
        (pa.array([decimal.Decimal("1.50")]), ["1.50"]),
    ],
)
def test_anything_becomes_text_or_missing(column: pa.Array, expected: list[str | None]) -> None:
    found = as_text(column)
    assert found.dtype == "str"
    assert [None if value != value else value for value in found] == expected


def test_text_that_parquet_holds_with_broken_encoding_is_marked() -> None:
    offsets, data = pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")
    assert as_text(pa.StringArray.from_buffers(2, offsets, data)).tolist() == ["a", "\ufffd"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=6))
def test_no_text_makes_a_number_column_fail(texts: list[str | None]) -> None:
    found = as_number(pa.array(texts, pa.string()))
    assert found.dtype == np.float64
    assert len(found) == len(texts)


def test_numbers_are_read_and_everything_else_is_missing() -> None:
    found = as_number(pa.array(["4", "3.5", "abc", None, "inf", "True", "false", "1e3"]))
    np.testing.assert_array_equal(found, [4, 3.5, math.nan, math.nan, math.inf, 1, 0, 1000])
    np.testing.assert_array_equal(as_number(pa.array([[1], None])), [math.nan, math.nan])
    np.testing.assert_array_equal(as_number(pa.array([True, None])), [1, math.nan])


@pytest.mark.parametrize(
    ("column", "time_format", "expected"),
    [
        (pa.array([1500, None, -1]), "ms", [1, math.nan, -1]),
        (pa.array(["1500", "x"]), "s", [1500, math.nan]),
        (pa.array(["1970-01-02 00:00:09", "soon", None]), "%Y-%m-%d %H:%M:%S", [86_409, math.nan, math.nan]),
        (pa.array(["1970-01-02T01:00:00+0100"]), "%Y-%m-%dT%H:%M:%S%z", [86_400]),
        (pa.array(["9999-12-31"]), "%Y-%m-%d", [253_402_214_400]),
        (pa.array([DAY, None]), "s", [86_400, math.nan]),  # an Arrow time needs no format
        (pa.array([DAY.replace(tzinfo=dt.timezone(dt.timedelta(hours=1)))]), "s", [82_800]),
        (pa.array([DAY.date()]), "s", [86_400]),
    ],
)
def test_times_become_whole_seconds_since_1970(column: pa.Array, time_format: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(as_seconds(column, time_format), expected)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a|b", None, "", " c | |d"]), [["a", "b"], [], [], ["c", "d"]]),
        (pa.array([["a", None, ""], None, []]), [["a"], [], []]),
        (pa.array([[["a", "b"], ["c"]], None, [None, []], [["d"]]]), [["a", "b", "c"], [], [], ["d"]]),
        (pa.array([["x"], None, ["b", "c"]]).slice(1), [[], ["b", "c"]]),
        (pa.array([[7]]), [["7"]]),
        (pa.nulls(1), [[]]),
    ],
)
def test_tags_come_from_lists_nested_lists_and_text(column: pa.Array, expected: list[list[str]]) -> None:
    assert [list(tags) for tags in as_tags(column)] == expected


def test_a_list_keeps_its_order_loses_the_unwanted_and_stays_missing_where_it_is() -> None:
    found = as_lists(pa.array([[0, 3, 1], None, [0]]), without=("0",))
    assert [None if value is None else list(value) for value in found] == [["3", "1"], None, []]
    assert list(as_lists(pa.array(["no list"]))) == [None]
