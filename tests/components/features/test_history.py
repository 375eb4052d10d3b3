"""Histories: what a user did before, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from components.features.history import Histories, histories, pad_left

# Three users: 0 with four interactions, 1 with one, 2 with three, two of which are in one second.
USER = np.array([0, 0, 0, 0, 1, 2, 2, 2])
TIME_S = np.array([10, 11, 12, 13, 5, 7, 8, 8])

Row = tuple[int, int]
blocks = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=40).map(sorted)


def lists(found: Histories) -> list[list[int]]:
    return [found.index[start:stop].tolist() for start, stop in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def find(rows: list[Row], length: int, hide_same_second: bool = False) -> Histories:
    user, time_s = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    return histories(user, time_s, length, hide_same_second)


def naive(rows: list[Row], length: int, hide_same_second: bool) -> tuple[list[list[int]], list[int]]:
    kept: list[list[int]] = []
    counts: list[int] = []
    for position, (user, time_s) in enumerate(rows):
        earlier = [other for other in range(position) if rows[other][0] == user and (not hide_same_second or rows[other][1] < time_s)]
        kept.append(earlier[-length:])
        counts.append(len(earlier))
    return kept, counts


def test_histories_of_three_users_by_hand() -> None:
    found = histories(USER, TIME_S, length=2)
    assert lists(found) == [[], [0], [0, 1], [1, 2], [], [], [5], [5, 6]]
    assert found.earlier_count.tolist() == [0, 1, 2, 3, 0, 0, 1, 2]
    assert found.offsets.tolist() == [0, 0, 1, 3, 5, 5, 5, 6, 8]


def test_interactions_of_one_second_can_be_hidden_from_each_other() -> None:
    found = histories(USER, TIME_S, length=2, hide_same_second=True)
    assert lists(found) == [[], [0], [0, 1], [1, 2], [], [], [5], [5]]
    assert found.earlier_count.tolist() == [0, 1, 2, 3, 0, 0, 1, 1]


def test_a_block_without_rows_has_no_histories() -> None:
    for hide in (False, True):
        found = find([], 3, hide)
        assert (found.offsets.tolist(), found.index.tolist(), found.earlier_count.tolist()) == ([0], [], [])


def test_the_types_are_those_that_arrow_lists_need() -> None:
    for found in (histories(USER, TIME_S, 2), find([], 2)):
        assert (found.offsets.dtype, found.index.dtype, found.earlier_count.dtype) == (np.int32, np.int64, np.int32)


@settings(deadline=None)
@given(blocks, st.integers(1, 5), st.booleans())
def test_histories_equal_a_plain_loop(rows: list[Row], length: int, hide_same_second: bool) -> None:
    found = find(rows, length, hide_same_second)
    kept, counts = naive(rows, length, hide_same_second)
    assert lists(found) == kept
    assert found.earlier_count.tolist() == counts


@settings(deadline=None)
@given(blocks, st.integers(1, 5), st.booleans())
def test_no_history_holds_a_later_interaction_or_another_user(rows: list[Row], length: int, hide_same_second: bool) -> None:
    for position, history in enumerate(lists(find(rows, length, hide_same_second))):
        user, time_s = rows[position]
        assert len(history) <= length
        assert all(rows[earlier][0] == user and earlier < position and rows[earlier][1] <= time_s for earlier in history)
        assert not hide_same_second or all(rows[earlier][1] < time_s for earlier in history)


@settings(deadline=None)
@given(blocks, st.integers(1, 5))
def test_a_shorter_history_is_the_end_of_a_longer_one(rows: list[Row], length: int) -> None:
    whole = lists(find(rows, len(rows) + 1))
    assert lists(find(rows, length)) == [history[-length:] for history in whole]


def test_lists_are_padded_on_the_left_and_cut_to_the_latest() -> None:
    values, offsets = np.array([1, 2, 3, 4, 5], np.int32), np.array([0, 2, 2, 5], np.int32)
    assert_array_equal(pad_left(values, offsets, 3, -1), [[-1, 1, 2], [-1, -1, -1], [3, 4, 5]])
    assert_array_equal(pad_left(values, offsets, 2, 0), [[1, 2], [0, 0], [4, 5]])
    assert pad_left(values.astype(np.float32), offsets, 2, 0.0).dtype == np.float32


def test_a_slice_of_lists_is_padded_as_in_the_whole() -> None:
    values, offsets = np.array([1, 2, 3, 4, 5]), np.array([0, 2, 2, 5])
    assert_array_equal(pad_left(values, offsets[1:], 3, -1), pad_left(values, offsets, 3, -1)[1:])


def test_no_lists_are_padded_to_no_rows() -> None:
    assert pad_left(np.zeros(0), np.zeros(1, np.int32), 3, 0.0).shape == (0, 3)
