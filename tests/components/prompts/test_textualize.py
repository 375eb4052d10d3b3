import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.prompts.textualize import clean, item_texts, textualize, title_texts, user_texts
from components.types import Field, FieldKind, Schema

FIELDS = (
    Field("gender", FieldKind.CATEGORICAL),
    Field("age", FieldKind.NUMERIC),
    Field("favourite_genres", FieldKind.TAGS),
    Field("about", FieldKind.TEXT),
)
SCHEMA = Schema(
    1, 5, 3, user_fields=FIELDS, item_fields=(Field("genres", FieldKind.TAGS), Field("year", FieldKind.NUMERIC)), item_noun="movie"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("  two\n\nlines\tand   spaces ", "two lines and spaces"),
        ("a\u2028b\u0085c\x1fd\xa0e", "a b c d e"),
        ("zero\u200bwidth\ufeff \u2060join\u200der", "zerowidth joiner"),
        ("\u202eright\u202c to \u2066left\u2069", "right to left"),
        ("bell\x07 and \x1b[31mred", "bell and [31mred"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("hidden\U000e0041\ufe0f\u3164\u00ad text", "hidden text"),
        ("Amélie 漢字 ❤", "Amélie 漢字 ❤"),
        ("\n\u200b", ""),
    ],
)
def test_text_becomes_one_plain_line(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_text_is_cut_at_its_limit_without_a_trailing_space() -> None:
    assert clean("abc def", 4) == "abc"
    assert clean("x" * 10_000) == "x" * 200
    assert clean("\n" * 50_000_000 + "late") == ""


@given(st.text(max_size=300), st.integers(1, 80))
def test_cleaned_text_is_printable_within_its_limit_and_stays_as_it_is(text: str, limit: int) -> None:
    found = clean(text, limit)
    assert found.isprintable()
    assert len(found) <= limit
    assert clean(found, limit) == found


def test_a_row_becomes_named_fields() -> None:
    row = {"gender": "male", "age": 24.0, "favourite_genres": ["Drama", "Sci-Fi"], "about": "likes\nnoir"}
    assert textualize(row, FIELDS) == "gender: male; age: 24; favourite genres: Drama, Sci-Fi; about: likes noir"


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, np.nan, "", "\n"])
def test_missing_values_are_left_out(missing) -> None:
    assert textualize({"gender": missing, "age": 24}, FIELDS) == "age: 24"
    assert textualize({"gender": "male", "favourite_genres": [missing]}, FIELDS) == "gender: male"


@pytest.mark.parametrize(
    ("value", "expected"), [(24.0, "24"), (np.float32(4.5), "4.5"), (1_234_567.0, "1234567"), (np.int64(7), "7"), (True, "True")]
)
def test_numbers_have_no_needless_digits(value, expected: str) -> None:
    assert textualize({"age": value}, FIELDS) == f"age: {expected}"


def test_a_table_reads_as_its_rows_do() -> None:
    users = pd.DataFrame(
        {
            "user_id": ["1", "2", "3"],
            "gender": ["male", None, "male"],
            "age": [24.0, np.nan, 31.5],
            "favourite_genres": [["Drama"], None, np.array(["Drama", "Noir"])],
            "about": ["a\tb", "", None],
        }
    )
    found = user_texts(users, SCHEMA)
    assert found == [
        "gender: male; age: 24; favourite genres: Drama; about: a b",
        "",
        "gender: male; age: 31.5; favourite genres: Drama, Noir",
    ]
    assert found == [textualize(row, FIELDS) for row in users.to_dict("records")]


def test_a_table_without_fields_gives_an_empty_profile_each() -> None:
    assert user_texts(pd.DataFrame({"user_id": ["1", "2"]}), Schema(0, 1, 0)) == ["", ""]


def test_items_are_written_title_first_and_by_their_id_without_one() -> None:
    items = pd.DataFrame(
        {"item_id": ["1", "42"], "title": ["Toy Story (1995)", None], "genres": [["Animation", "Comedy"], []], "year": [1995, 1996]}
    )
    assert item_texts(items, SCHEMA) == ["Toy Story (1995); genres: Animation, Comedy; year: 1995", "movie 42; year: 1996"]
    assert title_texts(items, SCHEMA) == ["Toy Story (1995)", "movie 42"]
    assert title_texts(items[["item_id"]], SCHEMA) == ["movie 1", "movie 42"]
