"""What every conventional recommender model is: a pure forward from a batch to click logits and inner vectors."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from components.crm.inputs import InputLayer
from components.types import CrmBatch, CrmOutput


class Crm(nn.Module):
    """A conventional recommender model: no loss, optimizer, device or path inside."""

    inputs: InputLayer

    @property
    @abstractmethod
    def hidden_widths(self) -> tuple[int, ...]:
        """Widths of `CrmOutput.hidden`, in order."""

    @abstractmethod
    def forward(self, batch: CrmBatch) -> CrmOutput:
        """Return click logits [B] and inner vectors, each [B, width]."""
