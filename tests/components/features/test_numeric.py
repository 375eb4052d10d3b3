"""Numeric columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from components.features.numeric import fit_scale, numbers, standardise


def test_a_column_is_scaled_by_its_mean_and_population_deviation() -> None:
    column = pd.Series([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])  # the textbook example: mean 5, deviation 2
    assert fit_scale(column) == (5.0, 2.0)
    assert standardise(column, (5.0, 2.0)).tolist() == [-1.5, -0.5, -0.5, -0.5, 0.0, 0.0, 1.0, 2.0]


def test_a_missing_number_is_left_out_of_the_scale_and_becomes_the_mean() -> None:
    column = pd.Series([1.0, np.nan, 3.0, None], dtype=object)
    assert fit_scale(column) == (2.0, 1.0)
    assert standardise(column, (2.0, 1.0)).tolist() == [-1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("value", [0.1, 3.0, -1e9, 0.0])
def test_equal_numbers_are_all_0_and_another_one_stays_small(value: float) -> None:
    scale = fit_scale(pd.Series([value] * 7))
    assert scale[1] == 1.0
    assert_allclose(standardise(pd.Series([value, value + 2.0]), scale), [0.0, 2.0], atol=1e-6)


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [None], ["x"]])
def test_a_column_without_numbers_has_the_neutral_scale(values: list[object]) -> None:
    assert fit_scale(pd.Series(values, dtype=object)) == (0.0, 1.0)


def test_an_infinite_number_is_a_missing_one() -> None:
    column = pd.Series([1.0, np.inf, 3.0, -np.inf])
    assert numbers(column).isna().tolist() == [False, True, False, True]
    assert fit_scale(column) == (2.0, 1.0)
    assert standardise(column, (2.0, 1.0)).tolist() == [-1.0, 0.0, 1.0, 0.0]


def test_a_huge_number_stays_finite() -> None:
    assert standardise(pd.Series([1e300, -1e300, 1e39]), (0.0, 1.0)).tolist() == [100.0, -100.0, 100.0]


def test_numbers_written_as_text_count() -> None:
    assert numbers(pd.Series(["7", " 2.5", "x"])).tolist()[:2] == [7.0, 2.5]
