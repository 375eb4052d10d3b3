from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets.raw.delimited import csv_names, read_csv, read_delimited
from components.errors import DataError

NAMES = ("a", "b", "c")


def rows(path: Path, separator: str = "::") -> list[tuple[str | None, ...]]:
    (chunk,) = read_delimited(str(path), NAMES, separator)
    return list(zip(*(column.to_pylist() for column in chunk.columns.columns), strict=True))


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.text("ab:", min_size=1, max_size=9), min_size=1, max_size=12))
def test_every_line_is_a_row_whatever_it_holds(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.dat"
    path.write_text("\n".join(lines) + "\n")
    parts = [line.split("::") for line in lines]
    assert rows(path) == [tuple(part or None for part in found) if len(found) == 3 else (None, None, None) for found in parts]


def test_a_line_with_too_few_or_too_many_fields_is_a_row_of_nulls(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text("1::2::3\n1::2\n\n1::2::3::4\n4::5::6\n")
    none = (None, None, None)
    assert rows(tmp_path / "a.dat") == [("1", "2", "3"), none, none, none, ("4", "5", "6")]


@settings(max_examples=40, deadline=None)
@given(table=st.lists(st.tuples(*[st.text('x ,"|é', max_size=5)] * 3), min_size=1, max_size=8))
def test_quoted_fields_are_read_as_python_wrote_them(table: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([NAMES, *table])
    (chunk,) = read_csv(str(path), ",")
    found = list(zip(*(column.to_pylist() for column in chunk.columns.columns), strict=True))
    assert found == [tuple(field or None for field in row) for row in table]
    assert chunk.first_row == 2


def test_a_stray_quote_costs_its_own_line_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b,c\n1,"2,3\n4,5,6\n')
    (chunk,) = read_csv(str(tmp_path / "a.csv"), ",")
    assert chunk.columns.to_pydict() == {"a": [None, "4"], "b": [None, "5"], "c": [None, "6"]}


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match=r"got \['a'\] more than once"):
        csv_names(str(tmp_path / "a.csv"), ",")


def test_an_empty_file_has_neither_columns_nor_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    assert csv_names(str(tmp_path / "a.csv"), ",") == ()
    assert list(read_csv(str(tmp_path / "a.csv"), ",")) == []
