"""One embedding table for all fields of a sample, with trained vectors for values that training never saw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.types import CrmInputs

USER_SLOT = "user_id"


class FieldEmbedding(nn.Module):
    """Embed every slot of a sample, and the items of its history, from one table.

    In training an id is read as its field's unknown value with a small probability, so that the vector of an unknown value is
    trained. The user id has a probability of its own: under a split in time most later users are new.
    """

    def __init__(self, inputs: CrmInputs, size: int, unknown_rate: float, user_unknown_rate: float) -> None:
        """`size` is D; the rates are probabilities in [0, 1]; at 1 the id is never read, not even outside training."""
        super().__init__()
        self._slots, self._item_slot = inputs.slots, inputs.item_slot
        self.table = nn.Embedding(inputs.embedding_rows, size, padding_idx=0)
        nn.init.normal_(self.table.weight, std=size**-0.5)
        with torch.no_grad():
            self.table.weight[0] = 0.0
        unknown = [slot.unknown_row for slot in inputs.slots for _ in range(slot.width)]
        rates = [user_unknown_rate if slot.name == USER_SLOT else unknown_rate for slot in inputs.slots for _ in range(slot.width)]
        self.unknown_S = nn.Buffer(torch.tensor(unknown), persistent=False)
        self.rate_S = nn.Buffer(torch.tensor(rates), persistent=False)

    def forward(self, slot_ids_BS: Tensor) -> Tensor:
        """Return one vector a slot [B, F, D]; a slot of many values is the mean of those that are not padding."""
        vectors_BSD = self.table(self._forget(slot_ids_BS, self.unknown_S, self.rate_S))
        seen_BS1 = (slot_ids_BS != 0).to(vectors_BSD.dtype).unsqueeze(2)
        fields: list[Tensor] = []
        for slot in self._slots:
            columns = slice(slot.start, slot.start + slot.width)
            fields.append(vectors_BSD[:, columns].sum(1) / seen_BS1[:, columns].sum(1).clamp_min(1.0))
        return torch.stack(fields, dim=1)

    def history(self, history_ids_BL: Tensor) -> Tensor:
        """Return the item vectors [B, L, D] of histories; zero where padded."""
        column = self._slots[self._item_slot].start
        return self.table(self._forget(history_ids_BL, self.unknown_S[column], self.rate_S[column]))

    def target(self, fields_BFD: Tensor) -> Tensor:
        """Return the vector [B, D] of the item in question out of what `forward` returned."""
        return fields_BFD[:, self._item_slot]

    def _forget(self, ids: Tensor, unknown: Tensor, rate: Tensor) -> Tensor:
        forgotten = torch.rand(ids.shape, device=ids.device) < rate if self.training else rate >= 1.0
        return torch.where((ids != 0) & forgotten, unknown, ids)
