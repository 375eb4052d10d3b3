"""What scoring and training know of the Llama family: which models are of it, their heads, and how these turn by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


def member(model: nn.Module) -> Any | None:
    """Return the model itself, with or without LoRA, where it is of the family; a class made from one of these may do anything."""
    if isinstance(model, peft.PeftModel):
        model = model.get_base_model() if model.peft_type == peft.PeftType.LORA else model
    return model if type(model) in FAMILY else None


def heads(own: Any, name: str, projected_SX: Tensor) -> Tensor:
    """Return queries (q), keys (k) or values (v) by heads, [S, H, E]; Qwen3 norms the first two."""
    found_SHE = projected_SX.unflatten(-1, (-1, own.head_dim))
    norm = getattr(own, f"{name}_norm", None)
    return found_SHE if norm is None else norm(found_SHE)


@dataclass(frozen=True)
class Turn:
    """The rotations of queries and keys by their places (RoPE)."""

    cos_S1E: Tensor
    sin_S1E: Tensor  # the first half negated: the sign of the half that takes the other's place

    @staticmethod
    def of(body: Any, states: Tensor, positions_S: Tensor) -> Turn:
        """`states` tell device and type."""
        cos_1SE, sin_1SE = body.rotary_emb(states, positions_S[None])
        half = sin_1SE.shape[-1] // 2
        return Turn(cos_1SE[0][:, None], torch.cat([-sin_1SE[0][:, None, :half], sin_1SE[0][:, None, half:]], -1))

    def at(self, places_B: Tensor) -> Turn:
        return Turn(self.cos_S1E[places_B], self.sin_S1E[places_B])

    def __call__(self, heads_SHE: Tensor) -> Tensor:
        return _Rotation.apply(heads_SHE, self.cos_S1E, self.sin_S1E)  # pyright: ignore[reportReturnType]


class _Rotation(torch.autograd.Function):
    """x cos + swapped(x) sin in three passes; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, heads_SHE: Tensor, cos_S1E: Tensor, sin_S1E: Tensor) -> Tensor:
        ctx.save_for_backward(cos_S1E, sin_S1E)
        return (heads_SHE * cos_S1E).addcmul_(heads_SHE.roll(heads_SHE.shape[-1] // 2, -1), sin_S1E)

    @staticmethod
    def backward(ctx: Any, gradient_SHE: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos_S1E, sin_S1E = ctx.saved_tensors
        swapped_SHE = gradient_SHE.roll(gradient_SHE.shape[-1] // 2, -1)
        return (gradient_SHE * cos_S1E).addcmul_(swapped_SHE, sin_S1E, value=-1), None, None
