from __future__ import annotations

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from components.datasets.raw.kcore import k_core

PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), max_size=25)


def core_one_by_one(pairs: list[tuple[str, str]], k: int) -> tuple[set[str], set[str]]:
    while True:
        users, items = ([pair[side] for pair in pairs] for side in (0, 1))
        kept = [(user, item) for user, item in pairs if users.count(user) >= k and items.count(item) >= k]
        if len(kept) == len(pairs):
            return set(users), set(items)
        pairs = kept


def chunk(pairs: list[tuple[str, str]]) -> tuple[pd.Series, pd.Series]:
    return pd.Series([user for user, _ in pairs], dtype="str"), pd.Series([item for _, item in pairs], dtype="str")


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(1, 4), st.integers(0, 25))
def test_the_core_is_what_repeated_filtering_leaves(pairs: list[tuple[str, str]], k: int, cut: int) -> None:
    users, items = k_core([chunk(pairs[:cut]), chunk(pairs[cut:])], k)
    assert (set(users), set(items)) == core_one_by_one(pairs, k)


def test_losing_an_item_can_cost_a_user_its_place() -> None:
    # a: x y, b: x y, c: x z. z has one review, so c keeps one, so c goes too.
    users, items = k_core([chunk([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "z")])], 2)
    assert list(users) == ["a", "b"]
    assert list(items) == ["x", "y"]


def test_a_row_with_a_null_id_counts_for_nobody() -> None:
    users, _ = k_core([(pd.Series(["a", None], dtype="str"), pd.Series(["x", "x"], dtype="str"))], 2)
    assert users.empty
