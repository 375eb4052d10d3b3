"""Fold-in: a user's taste, told in closed form from the ratings of their history, for users never seen in training too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.crm.embedding import embedding_table
from components.errors import ConfigError

OFFSET_SCALE = 4.0  # of the learned item offsets: they are to be found before the vectors are (ours)


class FoldIn(nn.Module):
    """Ridge regression of a history's rating residuals on item vectors, solved anew for every sample.

    w = (V'V + diag(ridge))^-1 V'r with V = [1, v_j] over the rated items j of the history, r their residuals;
    answer = gain * (w_0 + w' v_target) + an offset of the target. It is matrix factorisation whose user vectors are not stored but
    solved for; v is learned through the solution, so items get the vectors from which a taste is best told by few ratings.
    Gain and ridge are not learned: fitted to the training users, they claim more than new users bear out.
    """

    @dataclass(frozen=True)
    class Config:
        """How much of a user's taste is told from the ratings of their history."""

        size: int = 4
        """Width of the item vectors; 0: no fold-in."""
        gain: float = 4.0
        """Log-odds of a click per unit of predicted residual (1 = the range of ratings)."""
        ridge: float = 3.0
        """How firmly a user's weights are held near 0; larger trusts a few ratings less."""
        mean_ridge: float = 4.0
        """The same for the user's mean residual: ratings at the items' means that every user starts from."""

        def __post_init__(self) -> None:
            if self.size < 0 or self.gain <= 0 or min(self.ridge, self.mean_ridge) <= 0:
                raise ConfigError(f"crm.fold_in: expected size >= 0, and gain and ridges > 0, got {self}")

    def __init__(self, config: FoldIn.Config, rows: int) -> None:
        """`rows` are the rows of the embedding table that the ids point to."""
        super().__init__()
        self._gain = config.gain
        self.vectors = embedding_table(rows, config.size)
        self.offset = nn.Embedding(rows, 1, padding_idx=0)
        nn.init.zeros_(self.offset.weight)
        self.ridge_E = nn.Buffer(torch.tensor([config.mean_ridge] + [config.ridge] * config.size), persistent=False)

    def forward(self, target_ids_B: Tensor, history_ids_BL: Tensor, rating_BL: Tensor) -> Tensor:
        """Return log-odds [B]; a residual of 0 marks padding and items without a rating, which tell nothing."""
        rated_BL1 = (rating_BL != 0).unsqueeze(2).float()
        # The solution needs full precision, whatever the weights are kept in.
        known_BLE = torch.cat([rated_BL1, rated_BL1 * self.vectors(history_ids_BL).float()], dim=2)
        gram_BEE = known_BLE.mT @ known_BLE + torch.diag(self.ridge_E.float())
        moment_BE1 = known_BLE.mT @ rating_BL.float().unsqueeze(2)
        taste_BE = torch.cholesky_solve(moment_BE1, torch.linalg.cholesky(gram_BEE)).squeeze(2)
        target_BD = self.vectors(target_ids_B)
        residual_B = taste_BE[:, 0] + (taste_BE[:, 1:] * target_BD.float()).sum(1)
        return self._gain * residual_B.to(target_BD.dtype) + OFFSET_SCALE * self.offset(target_ids_B).squeeze(1)
