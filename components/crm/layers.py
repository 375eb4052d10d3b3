"""Fully connected layers of recommender models, and Dice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, linear

Activation = Literal["relu", "prelu", "dice"]


class Linear(nn.Linear):
    """A linear layer that computes in the precision of what it reads."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return linear(input, self.weight.to(input.dtype), None if self.bias is None else self.bias.to(input.dtype))


class Head(nn.Linear):
    """The logit [B] of vectors side by side, in the precision of its weights."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, *parts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        logit_B1 = self.bias
        for part, weight in zip(parts, self.weight.split([part.shape[1] for part in parts], dim=1), strict=True):
            logit_B1 = logit_B1 + linear(part.to(weight.dtype), weight)
        return logit_B1.squeeze(1)


class Dice(nn.Module):
    """Data-adaptive activation: p(x) x + (1 - p(x)) alpha x, with p the sigmoid of x standardised over the batch (arXiv 1706.06978)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha_W = nn.Parameter(torch.zeros(width))
        self.mean_W = nn.Buffer(torch.zeros(width))
        self.variance_W = nn.Buffer(torch.ones(width))

    def forward(self, x_BW: Tensor) -> Tensor:
        # One row has no variance; it is judged by the running figures.
        learn = self.training and len(x_BW) > 1
        standard_BW = batch_norm(x_BW, self.mean_W, self.variance_W, training=learn, eps=1e-8)
        gate_BW = torch.sigmoid(standard_BW)
        return gate_BW * x_BW + (1 - gate_BW) * self.alpha_W.to(x_BW.dtype) * x_BW


class Tower(nn.Module):
    """Linear layers with activation and dropout; keeps what each layer answered."""

    def __init__(self, width: int, hidden_sizes: Sequence[int], activation: Activation, dropout: float) -> None:
        super().__init__()
        sizes = [width, *hidden_sizes]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(sizes))
        self.activations = nn.ModuleList(make_activation(activation, size) for size in hidden_sizes)
        self.dropout = nn.Dropout(dropout)
        self.width = sizes[-1]

    def forward(self, x_BW: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs [B, hidden_sizes[i]] of all layers, after activation and before dropout."""
        outputs: list[Tensor] = []
        for layer, activation in zip(self.layers, self.activations, strict=True):
            outputs.append(activation(layer(x_BW)))
            x_BW = self.dropout(outputs[-1])
        return tuple(outputs)


def make_activation(name: Activation, width: int) -> nn.Module:
    """Return the activation of this name for vectors of this width."""
    return {"relu": nn.ReLU, "prelu": lambda: nn.PReLU(width), "dice": lambda: Dice(width)}[name]()
