"""Quarantine: bad rows are counted and kept, and too many of them end the run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from components.datasets.quarantine import SCHEMA, Quarantine
from components.errors import DataError


def bad(*rows: tuple[str, str, int, str], content: str = "{}") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(["table", "file", "row", "reason"])).assign(content=content)


def finish(quarantine: Quarantine, totals: dict[str, int], max_bad_fraction: float) -> None:
    with quarantine:
        for table, rows in totals.items():
            quarantine.count(table, rows)
    quarantine.require(max_bad_fraction)


def read(path: Path) -> list[dict[str, object]]:
    return pq.read_table(path).to_pylist()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quarantine.parquet"


def test_every_bad_row_is_written_with_its_file_row_reason_and_content(path: Path) -> None:
    quarantine = Quarantine(str(path))
    quarantine.add(bad(("items", "u.item", 7, "null item_id"), content='{"title":"Café"}'))
    quarantine.add(bad(("interactions", "u.data", 3, "null user_id"), ("interactions", "u.data", 4, "rating infinite")))
    finish(quarantine, {"items": 1_000, "interactions": 1_000}, max_bad_fraction=0.01)
    assert read(path) == [
        {"table": "items", "file": "u.item", "row": 7, "reason": "null item_id", "content": '{"title":"Café"}'},
        {"table": "interactions", "file": "u.data", "row": 3, "reason": "null user_id", "content": "{}"},
        {"table": "interactions", "file": "u.data", "row": 4, "reason": "rating infinite", "content": "{}"},
    ]


def test_rows_are_counted_by_table_and_kind_of_reason(path: Path) -> None:
    quarantine = Quarantine(str(path))
    quarantine.add(
        bad(
            ("interactions", "u.data", 3, "rating out of range: 9.0 (expected 1 to 5)"),
            ("interactions", "u.data", 4, "duplicate of row 1 of u.data"),
            ("interactions", "u.data", 5, "duplicate of row 2 of other.data"),
            ("users", "u.user", 5, "duplicate of row 2 of u.user"),
        )
    )
    quarantine.add(bad(("interactions", "u.data", 9, "rating out of range: 7.0 (expected 1 to 5)")))
    assert quarantine.counts == {"interactions: rating out of range": 2, "interactions: duplicate": 2, "users: duplicate": 1}
    finish(quarantine, {"interactions": 1_000, "users": 1_000}, 0.01)


def test_no_bad_rows_leave_an_empty_table_with_its_columns(path: Path) -> None:
    quarantine = Quarantine(str(path))
    quarantine.add(bad())
    finish(quarantine, {"interactions": 0}, 0.0)
    assert pq.read_schema(path) == SCHEMA
    assert (read(path), quarantine.counts) == ([], {})


def test_as_many_bad_rows_as_accepted_are_accepted(path: Path) -> None:
    quarantine = Quarantine(str(path))
    quarantine.add(bad(("interactions", "u.data", 1, "null user_id")))
    finish(quarantine, {"interactions": 100}, max_bad_fraction=0.01)
    assert len(read(path)) == 1


def test_too_many_bad_rows_end_the_run_and_the_message_says_where_they_are(path: Path) -> None:
    quarantine = Quarantine(str(path))
    quarantine.add(bad(("interactions", "u.data", 1, "null user_id"), ("interactions", "u.data", 2, "rating infinite")))
    with pytest.raises(DataError) as error:
        finish(quarantine, {"interactions": 100}, max_bad_fraction=0.01)
    message = str(error.value)
    assert message.startswith("2 of 100 rows of interactions are bad (2.0%), accepted are 1.0% (--prepare.max-bad-fraction)")
    assert "'interactions: null user_id': 1, 'interactions: rating infinite': 1" in message
    assert str(path) in message
    assert [row["row"] for row in read(path)] == [1, 2], "the file is whole although the run ends"


def test_each_table_is_judged_by_its_own_rows(path: Path) -> None:
    quarantine = Quarantine(str(path))
    quarantine.add(bad(("users", "u.user", 1, "null user_id")))
    with pytest.raises(DataError, match="1 of 10 rows of users are bad"):
        finish(quarantine, {"interactions": 100_000, "users": 10}, max_bad_fraction=0.01)


def test_none_accepted_means_none(path: Path) -> None:
    quarantine = Quarantine(str(path))
    quarantine.add(bad(("interactions", "u.data", 1, "null user_id")))
    with pytest.raises(DataError, match=r"accepted are 0\.0%"):
        finish(quarantine, {"interactions": 1_000_000}, max_bad_fraction=0.0)


def test_bad_rows_can_be_kept_in_an_object_store() -> None:
    quarantine = Quarantine("memory://bucket/quarantine-test/quarantine.parquet")
    quarantine.add(bad(("interactions", "u.data", 1, "null user_id")))
    finish(quarantine, {"interactions": 1_000}, 0.01)
    assert pd.read_parquet("memory://bucket/quarantine-test/quarantine.parquet")["row"].tolist() == [1]
