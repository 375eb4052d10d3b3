"""What a rated history says of an item: pooled vectors and a closed-form fold-in of the user."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

HistoryChoice = Literal["none", "mean", "rated"]


class PooledHistory(nn.Module):
    """Order-free features of a history beside an item; padding and order never change them.

    "none": nothing. "mean": mean of the history's item vectors, and its product with the item's vector.
    "rated": also the same two of the sum of item vectors weighted by their rating residuals, and the fold-in.
    """

    def __init__(self, choice: HistoryChoice, size: int) -> None:
        super().__init__()
        self._choice = choice
        self.fold_in = FoldIn(size) if choice == "rated" else None
        self.width = {"none": 0, "mean": 2 * size, "rated": 5 * size + 2}[choice]

    def forward(self, target_BD: Tensor, history_BLD: Tensor, rating_BL: Tensor, seen_BL: Tensor) -> Tensor:
        """Return features [B, width] from item vectors that are zero where padded and residuals (see CrmBatch)."""
        if self._choice == "none":
            return target_BD.new_zeros(len(target_BD), 0)
        count_B1 = seen_BL.sum(1, keepdim=True).to(target_BD.dtype).clamp_min(1.0)
        mean_BD = history_BLD.sum(1) / count_B1
        features = [mean_BD, mean_BD * target_BD]
        if self.fold_in is not None:
            rated_BD = (rating_BL.unsqueeze(2) * history_BLD).sum(1) / count_B1.sqrt()
            features += [rated_BD, rated_BD * target_BD, self.fold_in(target_BD, history_BLD, rating_BL, seen_BL)]
        return torch.cat(features, dim=1)


class FoldIn(nn.Module):
    """Ridge regression of a user's rating residuals on the vectors of the rated items, solved anew for every sample.

    w = (V'V + diag(lambda))^-1 V'r with V = [1, history vectors] and r the residuals; learned lambda. The item vectors are
    learned through the solution, so they become those from which a user's taste is best told from few ratings.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.log_ridge_E = nn.Parameter(torch.zeros(size + 1))

    def forward(self, target_BD: Tensor, history_BLD: Tensor, rating_BL: Tensor, seen_BL: Tensor) -> Tensor:
        """Return [B, D + 2]: the user's offset, the user's weights times the item's vector, and the predicted residual."""
        dtype = target_BD.dtype
        seen_BL1 = seen_BL.unsqueeze(2).float()
        known_BLE = torch.cat([seen_BL1, history_BLD.float()], dim=2)
        gram_BEE = known_BLE.transpose(1, 2) @ known_BLE + torch.diag(self.log_ridge_E.float().exp())
        moment_BE1 = known_BLE.transpose(1, 2) @ rating_BL.float().unsqueeze(2)
        weights_BE = torch.cholesky_solve(moment_BE1, torch.linalg.cholesky(gram_BEE)).squeeze(2)
        offset_B1, taste_BD = weights_BE[:, :1], weights_BE[:, 1:] * target_BD.float()
        return torch.cat([offset_B1, taste_BD, offset_B1 + taste_BD.sum(1, keepdim=True)], dim=1).to(dtype)
