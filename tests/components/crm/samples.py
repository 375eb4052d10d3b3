"""Hand-made inputs that the tests of the recommender models share."""

from __future__ import annotations

import torch
from torch import Tensor

from components.types import CrmBatch, CrmInputs, Slot

# Embedding rows, padding 0 first: user_id 1 to 3, item_id 4 to 8, genres 9 to 12; the first of each range stands for the unknown.
INPUTS = CrmInputs(
    slots=(Slot("user_id", 0, 1, unknown_row=1), Slot("item_id", 1, 1, unknown_row=4), Slot("genres", 2, 3, unknown_row=9)),
    embedding_rows=13,
    numeric_names=("age", "history_log_rated"),
    history_length=4,
    item_slot=1,
)


def batch() -> CrmBatch:
    """Three samples: a full history, one of two items, and none."""
    return CrmBatch(
        slot_ids_BS=torch.tensor([[2, 5, 10, 11, 0], [3, 6, 12, 0, 0], [1, 4, 0, 0, 0]]),
        numeric_BN=torch.tensor([[0.5, 1.0], [-0.5, 0.3], [0.0, 0.0]]),
        history_ids_BL=torch.tensor([[5, 6, 7, 8], [0, 0, 8, 7], [0, 0, 0, 0]]),
        history_rating_BL=torch.tensor([[0.3, -0.2, 0.1, -0.5], [0.0, 0.0, 0.4, 0.2], [0.0, 0.0, 0.0, 0.0]]),
    )


def repeat_rows(rows: CrmBatch, row: int, times: int) -> CrmBatch:
    """One sample many times over."""

    def again(tensor: Tensor) -> Tensor:
        return tensor[row : row + 1].repeat(times, 1)

    return CrmBatch(again(rows.slot_ids_BS), again(rows.numeric_BN), again(rows.history_ids_BL), again(rows.history_rating_BL))
