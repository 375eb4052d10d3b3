from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets.checks import check_interactions, check_items, check_users, duplicate_reasons, kinds, quarantined
from components.types import Field, FieldKind, Schema

SCHEMA = Schema(1.0, 5.0, 3.0)
NOW_S = 1_000_000.0
GOOD = {"user_id": "u", "item_id": "i", "rating": 4.0, "timestamp_s": 999.0}
MEBIBYTE = "x" * (1 << 20)


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows)).assign(file="f.csv", row=range(1, len(rows) + 1))


def reason(known: pd.Index | None = None, schema: Schema = SCHEMA, **changes: Any) -> str:
    """Return the reason of one changed row between two good ones, which must stay good."""
    before, found, after = check_interactions(frame(GOOD | EXTRA, GOOD | EXTRA | changes, GOOD | EXTRA), schema, known, NOW_S)
    assert (before, after) == ("", "")
    return found


EXTRA: dict[str, Any] = {"device": "phone", "tags": ["a"], "split": "train", "history_items": ["x"]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"user_id": None}, "null user_id"),
        ({"item_id": ""}, "null item_id"),
        ({"rating": math.nan}, "rating missing or not a number"),
        ({"rating": "abc"}, "rating missing or not a number"),
        ({"rating": math.inf}, "rating infinite"),
        ({"rating": -math.inf}, "rating infinite"),
        ({"rating": 5.5}, "rating out of range: 5.5 (expected 1 to 5)"),
        ({"rating": 0.0}, "rating out of range: 0.0 (expected 1 to 5)"),
        ({"rating": 1.0}, ""),
        ({"timestamp_s": None}, "time missing or not a number"),
        ({"timestamp_s": -1.0}, "time impossible: -1.0 s (before 1970)"),
        ({"timestamp_s": NOW_S + 86_400}, ""),  # a day of grace for clocks and time zones
        ({"timestamp_s": NOW_S + 86_401}, "time impossible: 1086401.0 s (in the future)"),
        ({"user_id": "a\ufffdb"}, "broken encoding in user_id"),
        ({"item_id": "a\x00b"}, "control character in item_id"),
        ({"item_id": "a\nb"}, "control character in item_id"),
        ({"user_id": MEBIBYTE}, "over-long text in user_id: more than 65,536 bytes"),
        ({"user_id": None, "rating": 9.0}, "null user_id; rating out of range: 9.0 (expected 1 to 5)"),
    ],
)
def test_a_bad_interaction_has_its_reason(changes: dict[str, Any], expected: str) -> None:
    assert reason(**changes) == expected


def test_an_item_that_the_items_table_lacks_is_without_metadata() -> None:
    assert reason(known=pd.Index(["i", "j", "j"]), item_id="k") == "item without metadata"
    assert reason(known=pd.Index(["i", "j", "j"]), item_id=None) == "null item_id"
    assert reason(known=None, item_id="k") == ""


def test_context_fields_are_read_for_broken_text() -> None:
    schema = Schema(1.0, 5.0, 3.0, context_fields=(Field("device", FieldKind.CATEGORICAL), Field("tags", FieldKind.TAGS)))
    assert reason(schema=schema, device="\ufffd") == "broken encoding in device"
    assert reason(schema=schema, tags=["fine", "\ufffd"]) == "broken encoding in tags"
    assert reason(schema=schema, device=None, tags=[]) == ""


def test_a_shipped_split_needs_a_known_split_and_a_history() -> None:
    schema = Schema(0.0, 5.0, 0.5, shipped_split=True)
    assert reason(schema=schema, split="dev") == "split unknown: dev (expected train, valid or test)"
    assert reason(schema=schema, history_items=None) == "history missing or not a list"
    assert reason(schema=schema, history_items=[]) == ""


def test_users_and_items_are_checked_for_ids_and_text() -> None:
    schema = Schema(1.0, 5.0, 3.0, user_fields=(Field("job", FieldKind.TEXT), Field("age", FieldKind.NUMERIC)))
    users = pd.DataFrame({"user_id": ["a", None, "c"], "job": ["x", "y", "\ufffd"], "age": [1.0, 2.0, math.nan]})
    assert check_users(users, schema).tolist() == ["", "null user_id", "broken encoding in job"]
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["x", None, "é" * 32_769]})  # é is two bytes
    assert check_items(items, SCHEMA).tolist() == ["", "", "over-long text in title: more than 65,536 bytes"]


def test_reasons_keep_the_index_of_the_chunk_even_where_it_repeats() -> None:
    chunk = frame(GOOD, GOOD | {"rating": 9.0}, GOOD | {"user_id": None}).set_index(pd.Index([7, 7, 3]))
    found = check_interactions(chunk, SCHEMA, None, NOW_S)
    assert found.index.tolist() == [7, 7, 3]
    assert kinds(found).tolist() == ["", "rating out of range", "null user_id"]


def test_an_empty_chunk_has_no_reasons() -> None:
    assert check_interactions(frame(GOOD).head(0), SCHEMA, None, NOW_S).empty


KEYS = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2), st.sampled_from(["f", "g"])), max_size=12)


@settings(max_examples=60, deadline=None)
@given(KEYS, st.randoms())
def test_all_but_the_first_copy_of_a_key_are_duplicates(keys: list[tuple[str | None, int, str]], random: Any) -> None:
    rows = [(user, item, file, number) for number, (user, item, file) in enumerate(keys, start=1)]
    random.shuffle(rows)
    table = pd.DataFrame(rows, columns=pd.Index(["user_id", "item_id", "file", "row"])).astype({"user_id": "str", "file": "str"})
    found = duplicate_reasons(table, ["user_id", "item_id"])
    first: dict[tuple[str, int], tuple[str, int]] = {}
    for user, item, file, row in sorted(rows, key=lambda row: row[2:]):
        if user is not None:
            first.setdefault((user, item), (file, row))
    for (user, item, file, row), told in zip(rows, found, strict=True):
        is_first = user is None or first[user, item] == (file, row)
        assert told == ("" if is_first else "duplicate of row {1} of {0}".format(*first[user, item]))


def test_kinds_of_reasons_leave_out_what_is_of_one_row_alone() -> None:
    told = pd.Series(["null user_id; rating out of range: 9.0 (expected 1 to 5)", "duplicate of row 3 of u.data", ""])
    assert kinds(told).tolist() == ["null user_id; rating out of range", "duplicate", ""]


def test_quarantine_keeps_table_file_row_reason_and_content() -> None:
    bad = frame(GOOD | {"rating": math.nan, "tags": np.array(["a"])})
    (found,) = quarantined(bad, pd.Series(["no rating"]), "interactions").to_dict("records")
    content = json.loads(found.pop("content"))
    assert found == {"table": "interactions", "file": "f.csv", "row": 1, "reason": "no rating"}
    assert content == {"user_id": "u", "item_id": "i", "rating": None, "timestamp_s": 999.0, "tags": ["a"]}


def test_quarantine_of_nothing_is_empty_with_all_columns() -> None:
    empty = quarantined(frame(GOOD).head(0), pd.Series([], dtype="str"), "users")
    assert empty.columns.tolist() == ["table", "file", "row", "reason", "content"]
    assert empty.empty


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), min_size=1, max_size=4))
def test_quarantined_content_is_whole_json_of_at_most_500_characters(texts: list[str]) -> None:
    bad = pd.DataFrame({"title": pd.Series(texts, dtype="str"), "file": "f", "row": range(len(texts))})
    found = quarantined(bad, pd.Series(["bad"] * len(texts)), "items")["content"]
    assert len(found) == len(texts)
    for content, text in zip(found, texts, strict=True):
        assert len(content) <= 500
        if len(content) < 500:
            assert json.loads(content)["title"] == text[:100]


def test_a_title_of_a_mebibyte_is_cut() -> None:
    bad = pd.DataFrame({"item_id": ["i"], "title": [MEBIBYTE], "file": ["f"], "row": [1]})
    (content,) = quarantined(bad, pd.Series(["long"]), "items")["content"]
    assert json.loads(content) == {"item_id": "i", "title": "x" * 100}


def test_two_hundred_thousand_rows_are_checked_without_a_loop() -> None:
    rows = 200_000
    numbers = np.arange(rows)
    chunk = pd.DataFrame({"user_id": numbers.astype(str), "item_id": (numbers % 100).astype(str), "rating": 3.0, "timestamp_s": 5.0})
    chunk.loc[::100, "rating"] = 9.0
    started_s = time.process_time()
    found = check_interactions(chunk, SCHEMA, pd.Index([str(item) for item in range(100)]), NOW_S)
    assert time.process_time() - started_s < 5.0  # 0.1 s of CPU; a loop over rows takes far longer
    assert int((found != "").sum()) == 2_000
