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
    their mean weighted by rating residual ("rated"). Vectors and residuals are zero where padded; an empty history gives zeros."""
    if choice == "none":
        return target_BD.new_zeros(len(target_BD), 0)
    count_B1 = seen_BL.sum(1, keepdim=True).clamp_min(1)
    means = [history_BLD.sum(1) / count_B1]
    if choice == "rated":
        means.append((rating_BL.unsqueeze(2) * history_BLD).sum(1) / count_B1)
    return torch.cat([part for mean_BD in means for part in (mean_BD, mean_BD * target_BD)], dim=1)
