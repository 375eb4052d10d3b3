"""Fold-in: a user's taste, told in closed form from the ratings of their history, for users never seen in training too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.crm.embedding import Table, embedding_table
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
        self.offset = Table(rows, 1)
        nn.init.zeros_(self.offset.weight)
        self.ridge_E = nn.Buffer(torch.tensor([config.mean_ridge] + [config.ridge] * config.size), persistent=False)

    def forward(self, target_ids_B: Tensor, history_ids_BL: Tensor, rating_BL: Tensor) -> Tensor:
        """Return log-odds [B]; a residual of 0 marks padding and items without a rating, which tell nothing."""
        target_BD, history_BLD = self.vectors(target_ids_B, history_ids_BL)
        rated_BL1 = (rating_BL != 0).unsqueeze(2).float()
        # The solution needs full precision, whatever the weights are kept in.
        known_BLE = torch.cat([rated_BL1, rated_BL1 * history_BLD.float()], dim=2)
        taste_BE = ridge_regression(known_BLE, rating_BL.float(), self.ridge_E.float())
        residual_B = taste_BE[:, 0] + (taste_BE[:, 1:] * target_BD.float()).sum(1)
        (offset_B1,) = self.offset(target_ids_B)
        return self._gain * residual_B.to(target_BD.dtype) + OFFSET_SCALE * offset_B1.squeeze(1)


def ridge_regression(known_BLE: Tensor, rating_BL: Tensor, ridge_E: Tensor) -> Tensor:
    """Return w = (K'K + diag(ridge))^-1 K'r [B, E] of each sample; only K has a gradient."""
    if not known_BLE.requires_grad:
        return _solve(known_BLE, rating_BL, ridge_E)[0].squeeze(2)
    return _Ridge.apply(known_BLE, rating_BL, ridge_E)  # pyright: ignore[reportReturnType]


class _Ridge(torch.autograd.Function):
    """The gradient of w in closed form: with u = (K'K + diag(ridge))^-1 dw it is dK = (r - K w) u' - (K u) w'."""

    @staticmethod
    def forward(ctx: Any, known_BLE: Tensor, rating_BL: Tensor, ridge_E: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight_BE1, root_BEE = _solve(known_BLE, rating_BL, ridge_E)
        ctx.save_for_backward(known_BLE, rating_BL, root_BEE, weight_BE1)
        return weight_BE1.squeeze(2)

    @staticmethod
    def backward(ctx: Any, gradient_BE: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        known_BLE, rating_BL, root_BEE, weight_BE1 = ctx.saved_tensors
        both_BE2 = torch.cat([torch.cholesky_solve(gradient_BE.unsqueeze(2), root_BEE), weight_BE1], dim=2)
        answer_BL2 = known_BLE @ both_BE2
        left_BL2 = torch.stack([rating_BL - answer_BL2[:, :, 1], -answer_BL2[:, :, 0]], dim=2)
        return left_BL2 @ both_BE2.mT, None, None


def _solve(known_BLE: Tensor, rating_BL: Tensor, ridge_E: Tensor) -> tuple[Tensor, Tensor]:
    """Return the solution [B, E, 1], and the Cholesky factor [B, E, E] of what was inverted."""
    root_BEE = torch.linalg.cholesky(known_BLE.mT @ known_BLE + torch.diag(ridge_E))
    return torch.cholesky_solve(known_BLE.mT @ rating_BL.unsqueeze(2), root_BEE), root_BEE
