"""From a batch to vectors: what every recommender model reads, embedded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.crm.embedding import FieldEmbedding
from components.crm.history import HistoryChoice, PooledHistory
from components.types import CrmBatch, CrmInputs


@dataclass(frozen=True)
class Embedded:
    """A batch after the input layer."""

    flat_BX: Tensor  # every slot's vector, the numbers and the pooled history, side by side
    target_BD: Tensor  # the item in question
    history_BLD: Tensor  # items of the history, zero where padded
    rating_BL: Tensor  # their rating residuals
    seen_BL: Tensor  # bool, False = padding


class InputLayer(nn.Module):
    """Embed the fields, pool the history, append the numbers."""

    def __init__(self, inputs: CrmInputs, size: int, unknown_rate: float, user_unknown_rate: float, history: HistoryChoice) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(inputs, size, unknown_rate, user_unknown_rate)
        self.pooled = PooledHistory(history, size)
        self.size = size
        self.width = len(inputs.slots) * size + len(inputs.numeric_names) + self.pooled.width

    def forward(self, batch: CrmBatch) -> Embedded:
        fields_BFD = self.embedding(batch.slot_ids_BS)
        target_BD, history_BLD = self.embedding.target(fields_BFD), self.embedding.history(batch.history_ids_BL)
        # Under bf16 the weights decide the arithmetic: numbers follow them.
        numeric_BN, rating_BL = (numbers.to(fields_BFD.dtype) for numbers in (batch.numeric_BN, batch.history_rating_BL))
        seen_BL = batch.history_ids_BL != 0
        pooled_BP = self.pooled(target_BD, history_BLD, rating_BL, seen_BL)
        flat_BX = torch.cat([fields_BFD.flatten(1), numeric_BN, pooled_BP], dim=1)
        return Embedded(flat_BX, target_BD, history_BLD, rating_BL, seen_BL)
