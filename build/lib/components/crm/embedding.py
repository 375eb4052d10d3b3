"""One embedding table for all fields of a sample, with trained vectors for values that training never saw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.types import CrmInputs, Slot

INITIAL_DEVIATION = 0.1  # of embeddings; small beside what training makes of them, so that rare values stay near zero (ours)


class FieldEmbedding(nn.Module):
    """Embed the slots of a sample, and items by their ids, from one table whose row 0 is padding: a zero vector."""

    def __init__(self, rows: int, slots: Sequence[Slot], size: int) -> None:
        """`size` is D; only `slots` are read, in their order."""
        super().__init__()
        self._slots = tuple(slots)
        self.table = embedding_table(rows, size)

    def forward(self, slot_ids_BS: Tensor) -> Tensor:
        """Return one vector a slot, side by side [B, F * D]; a slot of many values is the mean of those that are not padding."""
        # No column of the table: where nothing else reads it, it still has a gradient, which data parallelism waits for.
        fields: list[Tensor] = [self.table.weight[0, :0].expand(len(slot_ids_BS), 0)]
        for slot in self._slots:
            ids_BW = slot_ids_BS[:, slot.start : slot.start + slot.width]
            count_B1 = (ids_BW != 0).sum(1, keepdim=True).clamp_min(1)
            fields.append(self.table(ids_BW).sum(1) / count_B1)
        return torch.cat(fields, dim=1)

    def items(self, ids: Tensor) -> Tensor:
        """Return the vectors [..., D] of items."""
        return self.table(ids)


class Forget(nn.Module):
    """In training, read an id as its field's unknown value with a small probability, so that the vector of an unknown value is trained.

    The user id has a probability of its own: under a split in time most later users are new. A probability of 1 never reads the id,
    outside training too.
    """

    def __init__(self, inputs: CrmInputs, unknown_rate: float, user_unknown_rate: float) -> None:
        super().__init__()
        columns = [slot for slot in inputs.slots for _ in range(slot.width)]
        rates = [user_unknown_rate if slot.name == "user_id" else unknown_rate for slot in columns]
        self.unknown_S = nn.Buffer(torch.tensor([slot.unknown_row for slot in columns]), persistent=False)
        self.rate_S = nn.Buffer(torch.tensor(rates), persistent=False)
        self._item_column = inputs.slots[inputs.item_slot].start

    def forward(self, slot_ids_BS: Tensor, history_ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ids of slots and histories with some forgotten; padding stays."""
        item = slice(self._item_column, self._item_column + 1)
        return self._forget(slot_ids_BS, slice(None)), self._forget(history_ids_BL, item)

    def _forget(self, ids: Tensor, columns: slice) -> Tensor:
        rate_S = self.rate_S[columns]
        forgotten = torch.rand(ids.shape, device=ids.device) < rate_S if self.training else rate_S >= 1.0
        return torch.where((ids != 0) & forgotten, self.unknown_S[columns], ids)


def embedding_table(rows: int, size: int) -> nn.Embedding:
    """Make a table [rows, size] of small random vectors; row 0 is zero and stays zero."""
    table = nn.Embedding(rows, size, padding_idx=0)
    nn.init.normal_(table.weight, std=INITIAL_DEVIATION)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table
