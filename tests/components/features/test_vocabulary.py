"""Vocabularies: values to rows of the embedding table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.features.vocabulary import Vocabulary


def test_the_first_row_stands_for_what_training_never_showed() -> None:
    words = Vocabulary.fit("gender", 5, pd.Series(["m", "f", "m"]))
    assert words.size == 3
    assert words.encode(pd.Series(["f", "m", "x", "f"])).tolist() == [6, 7, 5, 6]


def test_a_missing_value_is_unknown() -> None:
    words = Vocabulary.fit("gender", 1, pd.Series(["m", None, np.nan, "f"]))
    assert words.values.tolist() == ["f", "m"]
    assert words.encode(pd.Series([None, np.nan, "m"], dtype=object)).tolist() == [1, 1, 3]
    assert words.encode(pd.Series([None, "m"], dtype="str")).tolist() == [1, 3]


def test_a_value_that_reads_nan_is_not_a_missing_one() -> None:
    words = Vocabulary.fit("name", 1, pd.Series(["nan", "None", "Ann"], dtype="str"))
    assert words.encode(pd.Series(["nan", "None", None], dtype="str")).tolist() == [4, 3, 1]
    assert words.encode(pd.Series(["nan", None, np.nan], dtype=object)).tolist() == [4, 1, 1]


def test_the_order_of_the_training_rows_does_not_matter() -> None:
    first, second = (Vocabulary.fit("year", 1, pd.Series(values)) for values in (["1999", "2001", "1998"], ["2001", "1998", "1999"]))
    assert first.values.tolist() == second.values.tolist() == ["1998", "1999", "2001"]


def test_a_field_without_values_owns_its_unknown_row_alone() -> None:
    words = Vocabulary.fit("empty", 9, pd.Series([], dtype="str"))
    assert words.size == 1
    assert words.encode(pd.Series(["a", None])).tolist() == [9, 9]


def test_numbers_are_encoded_by_their_text() -> None:
    words = Vocabulary.fit("zip", 1, pd.Series([7, 12]))
    assert words.encode(np.array([12, 7, 8])).tolist() == [2, 3, 1]
    assert words.encode(np.array(["12"])).tolist() == [2]
