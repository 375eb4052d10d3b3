"""The joint model: one forward gives one loss with its named parts, whichever of the two models a stage trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.bounds import require_at_least
from components.errors import ConfigError
from components.joint.alignment import Alignment
from components.losses import click_loss
from components.types import CrmBatch, TokenBatch


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss L = llm * L_llm + crm * L_crm + alignment * L_cal (arXiv 2403.16378)."""

    llm: float = 0.0
    """Weight of the LLM's click loss."""
    crm: float = 0.0
    """Weight of the CRM's click loss."""
    alignment: float = 0.0
    """Weight of the distance between hidden states; 0 trains without alignment."""

    def __post_init__(self) -> None:
        require_at_least(0, {"llm": self.llm, "crm": self.crm, "alignment": self.alignment})
        if not (self.llm or self.crm):
            raise ConfigError("llm: expected a weight above 0 for llm or crm, got 0 for both")
        if self.alignment and not (self.llm and self.crm):
            raise ConfigError(
                f"alignment: expected 0 where only one model is trained (llm {self.llm:g}, crm {self.crm:g}), got {self.alignment:g}"
            )


@dataclass(frozen=True)
class JointBatch:
    """The same samples as both models read them; a model that a stage does not train has no input."""

    label_B: Tensor  # float32, 0 or 1
    crm: CrmBatch | None = None
    tokens: TokenBatch | None = None

    def to(self, device: str) -> JointBatch:
        return JointBatch(
            self.label_B.to(device),
            self.crm.to(device) if self.crm is not None else None,
            self.tokens.to(device) if self.tokens is not None else None,
        )


@dataclass(frozen=True)
class JointOutput:
    """The loss to descend, its parts before weighting, and the click logits of each model that was asked."""

    loss: Tensor
    parts: dict[str, Tensor]
    crm_logits_B: Tensor | None
    llm_logits_B: Tensor | None


class JointModel(nn.Module):
    """A CRM, an LLM and the alignment between them; each may be absent."""

    def __init__(self, crm: nn.Module | None, llm: nn.Module | None, alignment: Alignment | None, weights: LossWeights) -> None:
        super().__init__()
        self.crm, self.llm, self.alignment, self.weights = crm, llm, alignment, weights

    def forward(self, batch: JointBatch) -> JointOutput:
        """Return CoReLLa's weighted loss; each click loss is the binary cross-entropy of its logits."""
        parts: dict[str, Tensor] = {}
        crm = self.crm(batch.crm) if self.crm is not None and batch.crm is not None else None
        aligned = crm is not None and self.alignment is not None
        llm = self.llm(batch.tokens, with_hidden=aligned) if self.llm is not None and batch.tokens is not None else None
        if crm is not None:
            parts["crm"] = click_loss(crm.logits_B, batch.label_B)
        if llm is not None:
            parts["llm"] = click_loss(llm.logits_B, batch.label_B)
        if crm is not None and llm is not None and self.alignment is not None:
            parts["alignment"] = self.alignment(llm.hidden, crm.hidden)
        loss = torch.stack([getattr(self.weights, name) * part for name, part in parts.items()]).sum()
        return JointOutput(loss, parts, crm.logits_B if crm is not None else None, llm.logits_B if llm is not None else None)
