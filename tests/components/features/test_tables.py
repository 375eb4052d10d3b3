"""Folders of samples: how many rows they hold, and the first of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.features.tables import count_rows, first_samples


def parts(folder: Path) -> str:
    """Write three rows and seven."""
    folder.mkdir()
    pq.write_table(pa.table({"id": [0, 1, 2]}), folder / "part-0.parquet")
    pq.write_table(pa.table({"id": [3, 4, 5, 6, 7, 8, 9]}), folder / "part-1.parquet")
    return str(folder)


def test_the_first_rows_are_read_and_no_file_behind_them(tmp_path: Path) -> None:
    uri = parts(tmp_path / "test")
    (tmp_path / "test" / "part-2.parquet").write_bytes(b"can't be read")
    assert first_samples(uri, 2)["id"].to_pylist() == [0, 1]
    assert first_samples(uri, 3)["id"].to_pylist() == [0, 1, 2]
    assert first_samples(uri, 5)["id"].to_pylist() == [0, 1, 2, 3, 4]


def test_fewer_rows_than_are_asked_for_are_all_there_are(tmp_path: Path) -> None:
    assert first_samples(parts(tmp_path / "test"), 100)["id"].to_pylist() == list(range(10))


def test_rows_are_counted_over_all_files_and_no_file_holds_none(tmp_path: Path) -> None:
    assert count_rows(parts(tmp_path / "test")) == 10
    (tmp_path / "empty").mkdir()
    assert count_rows(str(tmp_path / "empty")) == 0
