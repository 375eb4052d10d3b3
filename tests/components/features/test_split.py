"""The global time split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.features.split import BINS, SPLITS, Cut, bin_of_rank, cut_at, is_before, natural_key, split_sizes, time_bins

KEYS = ["timestamp_s", "user_row", "item_row"]
Key = tuple[int, int, int]

few_times = st.integers(0, 3).map(lambda place: place * 1_000)
spread_times = st.integers(0, 2_000_000_000)
tables = st.lists(st.tuples(few_times | spread_times, st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60, unique=True)


def frame(keys: list[Key]) -> pd.DataFrame:
    return pd.DataFrame(keys, columns=pd.Index(KEYS)).astype({"timestamp_s": np.int64, "user_row": np.int32, "item_row": np.int32})


def cut_by_bins(blocks: list[pd.DataFrame], rank: int) -> Cut:
    """Find a cut as the pipeline does: blocks count their rows in bins, and only the cut's bin is looked into."""
    times = [block["timestamp_s"].to_numpy() for block in blocks]
    first_s, last_s = int(np.concatenate(times).min()), int(np.concatenate(times).max())
    bins = [time_bins(first_s, last_s, time_s) for time_s in times]
    found, rank_in_bin = bin_of_rank(np.sum([np.bincount(part, minlength=BINS) for part in bins], axis=0), rank)
    inside = pd.concat([block.loc[part == found] for block, part in zip(blocks, bins, strict=True)])
    return cut_at(inside, rank_in_bin)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(95_285, (76_228, 9_528, 9_529)), (970_009, (776_007, 97_000, 97_002)), (10, (8, 1, 1)), (9, (7, 0, 2)), (0, (0, 0, 0))],
)
def test_sizes_are_those_of_the_published_protocol(rows: int, sizes: tuple[int, int, int]) -> None:
    assert split_sizes(rows) == sizes


def test_sizes_follow_the_fractions() -> None:
    assert split_sizes(200, 0.5, 0.25) == (100, 50, 50)


def test_the_cut_of_a_small_table_by_hand() -> None:
    table = frame([(5, 1, 1), (3, 0, 0), (5, 0, 2), (5, 1, 0), (9, 0, 0)])
    assert cut_by_bins([table], 2) == Cut(5, 1, 0)  # in order: 3; 5 user 0; 5 user 1 item 0; 5 user 1 item 1; 9
    assert is_before(Cut(5, 1, 0), table).tolist() == [False, True, True, False, False]


@settings(deadline=None, max_examples=60)
@given(tables, st.data())
@example([(7, user, item) for user in range(4) for item in range(4)], None)
def test_a_cut_found_by_bins_equals_that_of_a_full_sort(keys: list[Key], data: st.DataObject | None) -> None:
    rank, pieces = (5, 3) if data is None else (data.draw(st.integers(0, len(keys) - 1)), data.draw(st.integers(1, 4)))
    blocks = [frame(keys[start::pieces]) for start in range(pieces) if keys[start::pieces]]
    cut = cut_by_bins(blocks, rank)
    assert (cut.timestamp_s, cut.user_row, cut.item_row) == sorted(keys)[rank]
    before = [tuple(row) for block in blocks for row in block[is_before(cut, block)].itertuples(index=False)]
    assert sorted(before) == sorted(keys)[:rank]


def test_bins_keep_the_order_of_time_and_stay_in_range() -> None:
    time_s = np.array([0, 1, 1_000_000, 1_999_999_999, 2_000_000_000])
    bins = time_bins(0, 2_000_000_000, time_s)
    assert bins.tolist() == sorted(bins)
    assert (bins[0], bins[-1]) == (0, BINS - 1)
    assert time_bins(7, 7, np.array([7])).tolist() == [0]


def test_a_rank_is_found_behind_empty_bins() -> None:
    counts = np.array([0, 3, 0, 2])
    assert [bin_of_rank(counts, rank) for rank in range(5)] == [(1, 0), (1, 1), (1, 2), (3, 0), (3, 1)]


def test_numbers_come_in_the_order_of_their_value_and_before_all_else() -> None:
    ids = pd.Series(["10", "9", "b", "-5", "100", "12ab", "!", "a", "007"])
    ordered = ids.iloc[natural_key(ids).argsort(kind="stable")].tolist()
    assert ordered == ["007", "9", "10", "100", "!", "-5", "12ab", "a", "b"]


def test_no_ids_have_no_order() -> None:
    assert natural_key(pd.Series([], dtype="str")).tolist() == []


def test_ids_keep_their_index() -> None:
    assert natural_key(pd.Series(["2", "1"], index=[7, 3])).index.tolist() == [7, 3]


def test_the_three_splits_have_their_usual_names() -> None:
    assert SPLITS == ("train", "valid", "test")
