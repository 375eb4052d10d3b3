"""DIN: a user's interest is what of their history matters for the item in question (arXiv 1706.06978)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.crm.inputs import Embedded, InputLayer
from components.crm.layers import Activation, Head, Tower
from components.crm.model import Crm
from components.errors import ConfigError
from components.types import CrmBatch, CrmOutput


class Din(Crm):
    """Attention of the item over the rated history, then a tower; `hidden` are the outputs of the tower's layers."""

    @dataclass(frozen=True)
    class Config:
        """The shape of a DIN."""

        attention_sizes: tuple[int, ...] = (32, 16)
        """Widths of the activation unit's layers."""
        softmax: bool = False
        """Let the attention over a history sum to one; the paper keeps the strength of interest and does not."""
        hidden_sizes: tuple[int, ...] = (128, 64)
        """Widths of the tower's layers."""
        activation: Activation = "dice"
        """Activation of the tower's layers."""

        def __post_init__(self) -> None:
            for name, sizes in (("attention_sizes", self.attention_sizes), ("hidden_sizes", self.hidden_sizes)):
                if not sizes or min(sizes) < 1:
                    raise ConfigError(f"din.{name}: expected one or more widths >= 1, got {sizes}")

    def __init__(self, config: Din.Config, inputs: InputLayer, dropout: float) -> None:
        super().__init__()
        self.inputs = inputs
        self.attention = Attention(inputs.size, config.attention_sizes, config.softmax)
        self.tower = Tower(inputs.width + 2 * inputs.size, config.hidden_sizes, config.activation, dropout)
        self.head = Head(self.tower.width)
        self._widths = config.hidden_sizes

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        return self._widths

    def forward(self, batch: CrmBatch) -> CrmOutput:
        embedded = self.inputs(batch)
        interest_BD = self.attention(embedded)
        read_BX = torch.cat([embedded.flat_BX, interest_BD, interest_BD * embedded.target_BD], dim=1)
        hidden = self.tower(self.inputs.narrow(read_BX))
        return CrmOutput(embedded.prior_B + self.head(hidden[-1]), hidden)


class Attention(nn.Module):
    """DIN's activation unit over a rated history: sum_j a(key_j, query) key_j, key = item vector + rating residual * direction."""

    def __init__(self, size: int, hidden_sizes: tuple[int, ...], softmax: bool) -> None:
        super().__init__()
        self.rating_D = nn.Parameter(torch.randn(size) * size**-0.5)
        self.unit = Tower(4 * size, hidden_sizes, "prelu", 0.0)
        self.score = nn.Linear(self.unit.width, 1)
        self._softmax = softmax

    def forward(self, embedded: Embedded) -> Tensor:
        """Return the interest [B, D]; zero for an empty history."""
        key_BLD = embedded.history_BLD + embedded.rating_BL.unsqueeze(2) * self.rating_D
        key_BLD = key_BLD.expand(len(embedded.target_BD), -1, -1)  # of a history that all share, a row for each
        query_BLD = embedded.target_BD.unsqueeze(1).expand_as(key_BLD)
        pair_BLP = torch.cat([key_BLD, query_BLD, key_BLD - query_BLD, key_BLD * query_BLD], dim=2)
        score_BL = self.score(self.unit(pair_BLP.flatten(0, 1))[-1]).view(key_BLD.shape[:2])
        if self._softmax:
            # Not -inf: a history of nothing but padding has to stay a number.
            score_BL = score_BL.masked_fill(~embedded.seen_BL, torch.finfo(score_BL.dtype).min).softmax(1)
        return (score_BL.masked_fill(~embedded.seen_BL, 0.0).unsqueeze(2) * key_BLD).sum(1)
