"""What a history says beside an item, whatever its order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

HistoryChoice = Literal["none", "mean", "rated"]


def pooled_width(choice: HistoryChoice, size: int) -> int:
    """Return P, the width of what `pool` makes of item vectors of this size."""
    return {"none": 0, "mean": 2, "rated": 4}[choice] * size


def pool(choice: HistoryChoice, target_BD: Tensor, history_BLD: Tensor, rating_BL: Tensor, seen_BL: Tensor) -> Tensor:
    """Return [B, P]: the mean of the history's item vectors and its product with the target's vector ("mean"), and the same two of
    their mean weighted by rating residual ("rated"). Vectors and residuals are zero where padded; an empty history gives zeros; one
    history [1, L, D] is shared by all targets."""
    if choice == "none":
        return target_BD.new_zeros(len(target_BD), 0)
    weights = [seen_BL.to(history_BLD.dtype), rating_BL] if choice == "rated" else [seen_BL.to(history_BLD.dtype)]
    weights_BKL = torch.stack(weights, dim=1) / seen_BL.sum(1).clamp_min(1).view(-1, 1, 1)
    mean_BKD = (weights_BKL @ history_BLD).expand(len(target_BD), -1, -1)
    return torch.stack([mean_BKD, mean_BKD * target_BD.unsqueeze(1)], dim=2).flatten(1)
