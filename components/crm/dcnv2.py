"""DCNv2: crosses of bounded degree, made explicitly, beside or before a deep tower (arXiv 2008.13535)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from components.crm.inputs import InputLayer
from components.crm.layers import Head, Linear, Tower
from components.crm.model import Crm
from components.errors import ConfigError
from components.types import CrmBatch, CrmOutput


class Dcnv2(Crm):
    """Cross layers x_{l+1} = x_0 * (W_l x_l + b_l) + x_l over all inputs, and a deep tower; `hidden` are the cross layers' outputs."""

    @dataclass(frozen=True)
    class Config:
        """The shape of a DCNv2."""

        cross_layers: int = 3
        """Cross layers; the l-th makes crosses of up to l + 1 features."""
        rank: int = 0
        """Rank of each cross layer's matrix, W = U V'; 0: full."""
        hidden_sizes: tuple[int, ...] = (128, 64)
        """Widths of the deep tower's layers."""
        structure: Literal["parallel", "stacked"] = "parallel"
        """Where the deep tower stands: beside the cross layers, or on top of them."""

        def __post_init__(self) -> None:
            if self.cross_layers < 1 or self.rank < 0:
                raise ConfigError(f"dcnv2: expected cross_layers >= 1 and rank >= 0, got {self.cross_layers} and {self.rank}")
            if not self.hidden_sizes or min(self.hidden_sizes) < 1:
                raise ConfigError(f"dcnv2.hidden_sizes: expected one or more widths >= 1, got {self.hidden_sizes}")

    def __init__(self, config: Dcnv2.Config, inputs: InputLayer, dropout: float) -> None:
        super().__init__()
        self.inputs, self._parallel = inputs, config.structure == "parallel"
        self.cross = nn.ModuleList(CrossLayer(inputs.width, config.rank) for _ in range(config.cross_layers))
        self.deep = Tower(inputs.width, config.hidden_sizes, "relu", dropout)
        self.head = Head(self.deep.width + (inputs.width if self._parallel else 0))

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        return (self.inputs.width,) * len(self.cross)

    def forward(self, batch: CrmBatch) -> CrmOutput:
        embedded = self.inputs(batch)
        first_BX = x_BX = self.inputs.narrow(embedded.flat_BX)
        hidden: list[Tensor] = []
        for layer in self.cross:
            x_BX = layer(first_BX, x_BX)
            hidden.append(x_BX)
        deep_BW = self.deep(first_BX if self._parallel else x_BX)[-1]
        last = (x_BX, deep_BW) if self._parallel else (deep_BW,)
        return CrmOutput(embedded.prior_B + self.head(*last), tuple(hidden))


class CrossLayer(nn.Module):
    """x_0 * (W x + b) + x, elementwise; W = U V' of a given rank, or full."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.weight = Linear(width, width) if rank == 0 else nn.Sequential(Linear(width, rank, bias=False), Linear(rank, width))

    def forward(self, first_BX: Tensor, x_BX: Tensor) -> Tensor:
        return torch.addcmul(x_BX, first_BX, self.weight(x_BX))
