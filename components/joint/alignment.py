"""The alignment loss of CoReLLa: hidden states of both models, projected into one space, drawn together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.bounds import require_above, require_at_least
from components.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """Which layers are aligned, and how."""

    pairs: tuple[tuple[int, int], ...] = ()
    """Pairs of (LLM block, CRM layer), from 0; empty: every CRM layer with blocks spread evenly, the last one included."""
    width: int = 64
    """Width of the common space."""
    exponent: float = 2.0
    """Power of the distance between the two projections (CoReLLa's alpha; its value is not published)."""

    def __post_init__(self) -> None:
        require_at_least(1, {"train.alignment.width": self.width})
        require_above(0, {"train.alignment.exponent": self.exponent})

    def require_layers(self, llm_blocks: int | None, crm_layers: int) -> None:
        """Raise ConfigError for a pair whose layers models of these depths lack; None where the LLM's is not known yet."""
        for block, layer in self.pairs:
            if not (0 <= block < (block + 1 if llm_blocks is None else llm_blocks) and 0 <= layer < crm_layers):
                blocks = "from 0" if llm_blocks is None else f"0 to {llm_blocks - 1}"
                raise ConfigError(
                    f"train.alignment.pairs: expected LLM blocks {blocks} and CRM layers 0 to {crm_layers - 1}, got {(block, layer)}"
                )


class Alignment(nn.Module):
    """Mean over samples of sum_j || g_llm(h_llm[S_j]) - g_crm(h_crm[T_j]) ||_2 ^ exponent (arXiv 2403.16378).

    The paper sums over samples; the mean keeps the weight independent of the batch. g are linear maps (ours: not published).
    """

    def __init__(self, config: Config, llm_width: int, llm_blocks: int, crm_widths: Sequence[int]) -> None:
        super().__init__()
        config.require_layers(llm_blocks, len(crm_widths))
        self.pairs = config.pairs or spread_pairs(llm_blocks, len(crm_widths))
        self.exponent = config.exponent
        self.from_llm = nn.ModuleList(nn.Linear(llm_width, config.width) for _ in self.pairs)
        self.from_crm = nn.ModuleList(nn.Linear(crm_widths[layer], config.width) for _, layer in self.pairs)

    def forward(self, llm_hidden: Sequence[Tensor], crm_hidden: Sequence[Tensor]) -> Tensor:
        """Return the loss of hidden states at the answer position (each [B, H]) and of CRM layers (each [B, width])."""
        total_B = torch.zeros(len(llm_hidden[0]), device=llm_hidden[0].device)
        for (block, layer), from_llm, from_crm in zip(self.pairs, self.from_llm, self.from_crm, strict=True):
            from_llm_BW = from_llm(llm_hidden[block])
            gap_BW = (from_llm_BW - from_crm(crm_hidden[layer].to(from_llm_BW.dtype))).float()
            # sqrt has no gradient at 0; for the usual exponent 2 the root is never taken.
            total_B = total_B + gap_BW.square().sum(1).clamp_min(1e-12).pow(self.exponent / 2)
        return total_B.mean()


def spread_pairs(llm_blocks: int, crm_layers: int) -> tuple[tuple[int, int], ...]:
    """Pair every CRM layer, in order, with LLM blocks at even distances that end at the last block."""
    return tuple((math.ceil((layer + 1) * llm_blocks / crm_layers) - 1, layer) for layer in range(crm_layers))
