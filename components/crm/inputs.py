"""From a batch to vectors: what every recommender model reads, embedded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from components.crm.embedding import FieldEmbedding, Forget
from components.crm.fold_in import FoldIn
from components.crm.history import HistoryChoice, pool, pooled_width
from components.errors import ConfigError
from components.features.store import HISTORY_NUMBERS
from components.types import CrmBatch, CrmInputs


@dataclass(frozen=True)
class Embedded:
    """A batch after the input layer."""

    flat_BX: Tensor  # every field's vector, the numbers and the pooled history, side by side
    target_BD: Tensor  # the item in question
    history_BLD: Tensor  # items of the history, zero where padded; none where nobody reads them
    rating_BL: Tensor  # their rating residuals
    seen_BL: Tensor  # bool, False = padding
    prior_B: Tensor  # log-odds from the fold-in, to which a model adds its own; zero without it


class InputLayer(nn.Module):
    """Embed the fields, pool the history, append the numbers, fold the user in."""

    @dataclass(frozen=True)
    class Config:
        """What is read, and how."""

        embedding_size: int = 16
        """Width of every embedding."""
        history: HistoryChoice = "rated"
        """The history's items as inputs: none, their mean, or also their mean weighted by rating."""
        fold_in: FoldIn.Config = field(default_factory=FoldIn.Config)
        unknown_rate: float = 0.02
        """Probability that training reads an id as unknown, so that new ids have a trained vector."""
        user_unknown_rate: float = 0.5
        """The same for the user id, which under a split in time is mostly new later; 1: never read."""
        ignored: tuple[str, ...] = ()
        """Fields and numbers that the model does not read."""
        precision: Literal["fp32", "bf16"] = "fp32"
        """Arithmetic of the dense layers in training; bf16 keeps fp32 weights, and scores are computed in fp32 in any case."""

        def __post_init__(self) -> None:
            if self.embedding_size < 1:
                raise ConfigError(f"crm.embedding_size: expected 1 or more, got {self.embedding_size}")
            for name in ("unknown_rate", "user_unknown_rate"):
                if not 0 <= getattr(self, name) <= 1:
                    raise ConfigError(f"crm.{name}: expected a probability in [0, 1], got {getattr(self, name)}")
            if self.precision not in ("fp32", "bf16"):
                raise ConfigError(f"crm.precision: expected fp32 or bf16, got {self.precision!r}")

        @property
        def reads_items(self) -> bool:
            """Whether the vectors of the history's items are read."""
            return self.history != "none"

        @property
        def reads_history(self) -> bool:
            """Whether anything of the history is read."""
            return self.reads_items or self.fold_in.size > 0 or not set(HISTORY_NUMBERS) <= set(self.ignored)

    def __init__(self, config: InputLayer.Config, inputs: CrmInputs) -> None:
        super().__init__()
        _require_known(config.ignored, inputs)
        slots = [slot for slot in inputs.slots if slot.name not in config.ignored]
        numbers = [place for place, name in enumerate(inputs.numeric_names) if name not in config.ignored]
        self._history: HistoryChoice = config.history
        self._reads_items, self.reads_history = config.reads_items, config.reads_history
        self._item_column = inputs.slots[inputs.item_slot].start
        self._dense_dtype = torch.bfloat16 if config.precision == "bf16" else None
        self.size = config.embedding_size
        self.width = len(slots) * self.size + len(numbers) + pooled_width(config.history, self.size)
        self.forget = Forget(inputs, config.unknown_rate, config.user_unknown_rate)
        self.embedding = FieldEmbedding(inputs.embedding_rows, slots, self.size)
        self.fold_in = FoldIn(config.fold_in, inputs.embedding_rows) if config.fold_in.size else None
        self.numbers_N = nn.Buffer(torch.tensor(numbers, dtype=torch.int64), persistent=False)

    def forward(self, batch: CrmBatch) -> Embedded:
        slot_ids_BS, history_ids_BL = self.forget(batch.slot_ids_BS, batch.history_ids_BL)
        target_ids_B, seen_BL = slot_ids_BS[:, self._item_column], batch.history_ids_BL != 0
        looked_up_BL = history_ids_BL if self._reads_items else history_ids_BL[:, :0]
        fields, (target_BD, history_BLD) = self.embedding(slot_ids_BS, target_ids_B, looked_up_BL)
        # The weights decide the arithmetic (bf16 under some engines); numbers follow them.
        numeric_BN, rating_BL = batch.numeric_BN[:, self.numbers_N].to(target_BD.dtype), batch.history_rating_BL.to(target_BD.dtype)
        pooled_BP = pool(self._history, target_BD, history_BLD, rating_BL, seen_BL)
        flat_BX = torch.cat([*fields, numeric_BN, pooled_BP], dim=1)
        prior_B = target_BD.new_zeros(len(target_BD))
        if self.fold_in is not None:
            prior_B = self.fold_in(target_ids_B, history_ids_BL, batch.history_rating_BL)
        return Embedded(flat_BX, target_BD, history_BLD, rating_BL, seen_BL, prior_B)

    def narrow(self, x_BX: Tensor) -> Tensor:
        """Return what dense layers read in the precision that they train in."""
        return x_BX.to(self._dense_dtype) if self.training and self._dense_dtype is not None else x_BX


def _require_known(ignored: tuple[str, ...], inputs: CrmInputs) -> None:
    known = [*(slot.name for slot in inputs.slots), *inputs.numeric_names]
    for name in ignored:
        if name not in known:
            raise ConfigError(f"crm.ignored: expected names among {', '.join(known)}, got {name!r}")
