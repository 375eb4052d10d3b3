"""One embedding table for all fields of a sample, with trained vectors for values that training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from components.types import CrmInputs, Slot

INITIAL_DEVIATION = 0.1  # of embeddings; small beside what training makes of them, so that rare values stay near zero (ours)


class Table(nn.Embedding):
    """Vectors [rows, size]; row 0 is padding, which training does not move.

    While `sparse` is set, a gradient names the rows that were read and holds nothing of the others.
    """

    def forward(self, *ids: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the vectors [..., size] of each tensor of ids; all share one gradient."""
        # A gradient on a GPU adds in a fixed order in torch's own alone.
        if self.weight.is_cuda or not torch.is_grad_enabled():
            return tuple(embedding(each, self.weight, padding_idx=0, sparse=self.sparse) for each in ids)
        return _Lookup.apply(self.weight, self.sparse, *ids)  # pyright: ignore[reportReturnType]


class _Lookup(torch.autograd.Function):
    """Rows of a table. On a CPU torch's own gradient of it takes four times as long: it adds row by row, each as a call of its own."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, sparse: bool, *ids: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.shape, ctx.sparse = weight.shape, sparse
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*ids)
        return tuple(weight.index_select(0, each.reshape(-1)).view(*each.shape, weight.shape[1]) for each in ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        known = [(ids.reshape(-1), gradient) for ids, gradient in zip(ctx.saved_tensors, gradients, strict=True) if gradient is not None]
        parts = [(ids_N, gradient.reshape(len(ids_N), ctx.shape[1])) for ids_N, gradient in known]
        summed = _named_rows(parts, ctx.shape) if ctx.sparse else _all_rows(parts, ctx.shape)
        return summed, None, *(None for _ in gradients)


def _all_rows(parts: Sequence[tuple[Tensor, Tensor]], shape: torch.Size) -> Tensor:
    whole_RD = parts[0][1].new_zeros(shape)
    for ids_N, gradient_ND in parts:
        whole_RD.index_add_(0, ids_N, gradient_ND)
    whole_RD[0] = 0.0
    return whole_RD


def _named_rows(parts: Sequence[tuple[Tensor, Tensor]], shape: torch.Size) -> Tensor:
    """Return a sparse gradient. A mark for each row of the table: up to a million rows no slower than to sort the ids."""
    read_R, place_R = torch.zeros(shape[0], dtype=torch.bool), torch.empty(shape[0], dtype=torch.int32)
    for ids_N, _ in parts:
        read_R[ids_N] = True
    rows_U = read_R.nonzero().squeeze(1)
    place_R[rows_U] = torch.arange(len(rows_U), dtype=torch.int32)
    summed_UD = parts[0][1].new_zeros(len(rows_U), shape[1])
    for ids_N, gradient_ND in parts:
        summed_UD.index_add_(0, place_R[ids_N], gradient_ND)
    summed_UD[rows_U == 0] = 0.0
    return torch.sparse_coo_tensor(rows_U.unsqueeze(0), summed_UD, shape, is_coalesced=True, check_invariants=False)


class FieldEmbedding(nn.Module):
    """Embed the slots of a sample, and items by their ids, from one table whose row 0 is padding: a zero vector."""

    def __init__(self, rows: int, slots: Sequence[Slot], size: int) -> None:
        """`size` is D; only `slots` are read, in their order."""
        super().__init__()
        self._runs = _runs(slots)
        self.table = embedding_table(rows, size)

    def forward(self, slot_ids_BS: Tensor, *item_ids: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return one vector a slot, to be put side by side [B, F * D], and the vectors [..., D] of items.

        A slot of many values is the mean of those that are not padding.
        """
        ids = [slot_ids_BS[:, columns] for columns, _ in self._runs]
        vectors = self.table(*ids, *item_ids)
        fields = [
            _mean(vectors_BWD, ids_BW) if is_list else vectors_BWD.flatten(1)
            for (_, is_list), ids_BW, vectors_BWD in zip(self._runs, ids, vectors, strict=False)
        ]
        return fields, vectors[len(ids) :]


def _runs(slots: Sequence[Slot]) -> list[tuple[slice, bool]]:
    """Return the columns to look up together, and whether they are the values of one field: neighbours of one value each are one run.

    Without any slot it is one run of no column: where nothing else reads the table, it still has a gradient, which data
    parallelism waits for.
    """
    runs: list[tuple[slice, bool]] = [] if slots else [(slice(0, 0), False)]
    for slot in slots:
        columns = slice(slot.start, slot.start + slot.width)
        if slot.width == 1 and runs and not runs[-1][1] and runs[-1][0].stop == slot.start:
            columns = slice(runs.pop()[0].start, columns.stop)
        runs.append((columns, slot.width > 1))
    return runs


def _mean(vectors_BWD: Tensor, ids_BW: Tensor) -> Tensor:
    return vectors_BWD.sum(1) / (ids_BW != 0).sum(1, keepdim=True).clamp_min(1)


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
        self._some, self._always_some = max(rates) > 0.0, max(rates) >= 1.0

    def forward(self, slot_ids_BS: Tensor, history_ids_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ids of slots and histories with some forgotten; padding stays."""
        if not (self._some if self.training else self._always_some):
            return slot_ids_BS, history_ids_BL
        item = slice(self._item_column, self._item_column + 1)
        return self._forget(slot_ids_BS, slice(None)), self._forget(history_ids_BL, item)

    def _forget(self, ids: Tensor, columns: slice) -> Tensor:
        rate_S = self.rate_S[columns]
        forgotten = torch.rand(ids.shape, device=ids.device) < rate_S if self.training else rate_S >= 1.0
        return torch.where((ids != 0) & forgotten, self.unknown_S[columns], ids)


def embedding_table(rows: int, size: int) -> Table:
    """Make a table [rows, size] of small random vectors; row 0 is zero and stays zero."""
    table = Table(rows, size)
    nn.init.normal_(table.weight, std=INITIAL_DEVIATION)
    with torch.no_grad():
        table.weight[0] = 0.0
    return table
