from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets.raw.json_lines import json_names, parse_line, read_json_lines, to_array
from components.datasets.raw.values import as_number, as_text
from components.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
OBJECT = st.fixed_dictionaries({}, optional={"a": st.none() | TEXT, "b": st.none() | st.integers(-9, 9) | st.floats(-9, 9)})
JUNK = st.sampled_from(["", "{", "[1]", "7", "{'a': 'x'}", '{"a": "x"} {"a": "y"}', '{"a": "\\ud800"}', '{"b": NaN}', '{"a": 3}'])


def read(path: Path, *names: str) -> dict[str, list[Any]]:
    return {name: values for chunk in read_json_lines(str(path), names) for name, values in chunk.columns.to_pydict().items()}


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(OBJECT, min_size=1, max_size=8))
def test_sound_lines_are_read_as_python_reads_them(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="\n")
    assert read(path, "a", "b") == {name: [row.get(name) for row in rows] for name in "ab"}


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(OBJECT.map(json.dumps) | JUNK, min_size=1, max_size=8))
def test_broken_lines_neither_vanish_nor_disturb_the_others(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text("\n".join([*lines, '{"a": "end"}\n']))
    (chunk,) = read_json_lines(str(path), ("a", "b"))
    assert chunk.columns.num_rows == len(lines) + 1
    for row, line in enumerate(lines):
        expected = parse_line(line)
        text, number = as_text(chunk.columns.column(0))[row], as_number(chunk.columns.column(1))[row]
        if isinstance(expected.get("a"), str) and "\ud800" not in expected["a"]:
            assert text == expected["a"]
        if isinstance(expected.get("b"), (int, float)):
            assert number == pytest.approx(float(expected["b"]), nan_ok=True)


def test_a_deeply_nested_line_is_a_row_of_nulls(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 100_000 + "\n" + '{"a": 1}\n')
    assert read(tmp_path / "a.jsonl", "a") == {"a": [None, 1]}


def test_half_a_surrogate_pair_becomes_replacement_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "x\\ud800"}\n')
    assert "\ufffd" in read(tmp_path / "a.jsonl", "a")["a"][0]


def test_values_of_mixed_types_become_text() -> None:
    assert to_array([5, "x", None, True, 2.5]).to_pylist() == ["5", "x", None, "true", "2.5"]
    assert to_array([["a", 1], "x", [["b"], None], 2**70]).to_pylist() == [["a", "1"], None, ["b", None], None]


def test_a_number_that_turns_fractional_late_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 200 + '{"a": 1.5}\n')
    assert read(tmp_path / "a.jsonl", "a")["a"][-1] == 1.5


def test_a_json_array_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('[{"a": 1}, {"a": 2}]')
    with pytest.raises(DataError, match="expected JSON lines, one object a line"):
        json_names(str(tmp_path / "b.json"))
