from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets.raw.lines import split_lines, text_blocks
from components.errors import DataError

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)


def numbered(path: str, block_bytes: int = 4) -> list[tuple[int, str]]:
    blocks = [(first, split_lines(text).to_pylist()) for first, text in text_blocks(path, block_bytes=block_bytes)]
    return [(first + offset, line) for first, found in blocks for offset, line in enumerate(found)]


@settings(max_examples=60, deadline=None)
@given(st.lists(LINE, max_size=12), st.integers(1, 20), st.sampled_from(["\n", "\r\n"]))
def test_blocks_of_any_size_give_every_line_with_its_number(lines: list[str], block_bytes: int, line_break: str) -> None:
    path = "memory://lines.txt"
    with fsspec.open(path, "wb") as file:
        file.write("".join(line + line_break for line in lines).encode())  # pyright: ignore[reportAttributeAccessIssue]
    while lines and not lines[-1]:
        lines.pop()  # empty lines at the end are none
    expected = list(enumerate(lines, start=1))
    if expected:
        expected[0] = (1, expected[0][1].removeprefix("\ufeff"))
    assert numbered(path, block_bytes) == expected


def test_a_last_line_needs_no_line_break(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1\n\n3")
    assert numbered(str(tmp_path / "a.txt")) == [(1, "1"), (2, ""), (3, "3")]


def test_bytes_that_are_no_text_become_replacement_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\n\xc3\xa9\n")
    assert numbered(str(tmp_path / "a.txt")) == [(1, "\ufffd"), (2, "é")]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfid\n")
    assert numbered(str(tmp_path / "a.txt")) == [(1, "id")]


def test_a_compressed_file_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"line\n" * 10_000)[:40])
    with pytest.raises(DataError, match=r"a\.txt\.gz is damaged or cut off"):
        numbered(str(path))


def test_a_file_that_only_claims_to_be_compressed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"plain text\n")
    with pytest.raises(DataError, match=r"a\.txt\.gz can't be read"):
        numbered(str(tmp_path / "a.txt.gz"))
