"""Draws by hash: uniform, and a matter of the row alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from components.features.sampling import uniform_hash

USERS, ITEMS = (part.ravel() for part in np.meshgrid(np.arange(200), np.arange(100), indexing="ij"))


@pytest.mark.parametrize("seed", [0, 1, 2, 12_345])
def test_the_numbers_are_uniform(seed: int) -> None:
    drawn = uniform_hash(seed, USERS, ITEMS)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert np.unique(drawn).size == drawn.size


@pytest.mark.parametrize("low", [0.0, 0.3, 0.9])
def test_an_interval_draws_its_share_of_each_users_rows(low: float) -> None:
    inside = (uniform_hash(1, USERS, ITEMS) >= low) & (uniform_hash(1, USERS, ITEMS) < low + 0.1)
    by_user = np.bincount(USERS, weights=inside)
    # 200 users with 100 rows each: binomial with mean 10 and deviation 3; their total 2,000 with deviation 42.
    assert abs(by_user.sum() - 2_000) < 5 * 42
    assert by_user.max() <= 10 + 6 * 3
    assert stats.chisquare(np.bincount(ITEMS, weights=inside)).pvalue > 1e-3


def test_a_draw_does_not_depend_on_the_order_of_the_rows() -> None:
    order = np.random.default_rng(0).permutation(len(USERS))
    np.testing.assert_array_equal(uniform_hash(3, USERS[order], ITEMS[order]), uniform_hash(3, USERS, ITEMS)[order])


def test_a_draw_does_not_depend_on_the_other_rows_or_the_integer_type() -> None:
    whole = uniform_hash(3, USERS, ITEMS)
    np.testing.assert_array_equal(uniform_hash(3, USERS[70:71].astype(np.int32), ITEMS[70:71].astype(np.int64)), whole[70:71])


def test_disjoint_intervals_draw_disjoint_rows_that_make_up_the_whole() -> None:
    drawn = uniform_hash(5, USERS, ITEMS)
    parts = [np.flatnonzero((drawn >= low) & (drawn < high)) for low, high in ((0.0, 0.3), (0.3, 0.75), (0.75, 1.0))]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(USERS)))


def test_another_seed_draws_other_rows() -> None:
    first, second = uniform_hash(1, USERS, ITEMS), uniform_hash(2, USERS, ITEMS)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert not (first == second).any()


def test_user_and_item_are_not_interchangeable() -> None:
    different = USERS != ITEMS
    assert not (uniform_hash(1, USERS, ITEMS) == uniform_hash(1, ITEMS, USERS))[different].any()


def test_the_same_row_is_drawn_in_every_version() -> None:
    # splitmix64 with seed 0: its first output is 0xE220A8397B1DCDAF; the state of a row is mix(seed * golden + key + 1).
    golden = np.array([0x9E3779B97F4A7C15 - 1], np.uint64)
    assert uniform_hash(0, golden)[0] == (0xE220A8397B1DCDAF >> 11) / 2**53


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63))
def test_any_key_and_seed_give_a_number_from_0_to_1(key: int, seed: int) -> None:
    assert 0.0 <= uniform_hash(seed, np.array([key]))[0] < 1.0
