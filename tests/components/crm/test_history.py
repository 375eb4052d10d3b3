"""Pooled histories, by hand."""

from __future__ import annotations

import torch

from components.crm.history import pool, pooled_width

TARGET_BD = torch.tensor([[2.0, -1.0], [2.0, -1.0]])
HISTORY_BLD = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [3.0, 1.0]], [[0.0, 0.0]] * 3])  # the second history is empty
RATING_BL = torch.tensor([[0.0, 0.5, -0.5], [0.0, 0.0, 0.0]])
SEEN_BL = torch.tensor([[False, True, True], [False, False, False]])


def test_a_history_becomes_its_mean_its_rated_mean_and_their_products_with_the_item() -> None:
    # mean (2, 2), times (2, -1): (4, -2); rated mean ((.5 - 1.5) / 2, (1.5 - .5) / 2) = (-.5, .5), times (2, -1): (-1, -.5)
    pooled = pool("rated", TARGET_BD, HISTORY_BLD, RATING_BL, SEEN_BL)
    assert pooled.tolist() == [[2, 2, 4, -2, -0.5, 0.5, -1, -0.5], [0.0] * 8]
    assert pool("mean", TARGET_BD, HISTORY_BLD, RATING_BL, SEEN_BL).tolist() == [[2, 2, 4, -2], [0.0] * 4]


def test_no_history_is_no_column() -> None:
    assert pool("none", TARGET_BD, HISTORY_BLD, RATING_BL, SEEN_BL).shape == (2, 0)
    assert [pooled_width("none", 2), pooled_width("mean", 2), pooled_width("rated", 2)] == [0, 4, 8]
