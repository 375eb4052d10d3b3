"""Histories of a split that comes with its own."""

from __future__ import annotations

import pandas as pd

from components.features.shipped import shipped_samples
from components.types import Schema

SCHEMA = Schema(0.0, 1.0, 0.5, shipped_split=True)


def test_histories_show_training_rows_alone() -> None:
    rows = [  # item, time, label, split, published history
        ("a", 10, 1.0, "train", []),
        ("b", 20, 0.0, "train", ["a"]),
        ("c", 30, 1.0, "train", ["a"]),
        ("d", 40, 1.0, "valid", ["a", "c"]),
        ("e", 50, 0.0, "valid", ["a", "c", "d"]),
        ("f", 60, 1.0, "test", ["a", "c", "d"]),
    ]
    block = pd.DataFrame(rows, columns=pd.Index(["item_id", "timestamp_s", "rating", "split", "history_items"]))
    block = block.assign(user_id="u", user_row=0, item_row=range(6))
    samples = shipped_samples(block, SCHEMA, 3, pd.Index(list("abcdef")))
    # Liked "d" is a validation row; disliked "e" stays hidden too.
    assert samples["history_rows"].to_pylist() == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert samples["history_ratings"].to_pylist() == [[], [1.0], [1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    assert samples["earlier_count"].to_pylist() == [0, 1, 2, 3, 3, 3]
