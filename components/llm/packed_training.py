"""Training the Llama family on prompts that follow one another in a row: nothing is padded, nothing computed that no answer depends on.

The last layer is computed where the answers are read, and its keys and values alone elsewhere. Each module of transformers is
called as such, so that adapters, and the hooks by which ZeRO gathers weights, stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from components.llm.causal_attention import attend, attend_last
from components.types import LlmOutput, TokenBatch

FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


def understood(model: nn.Module) -> Any | None:
    """Return the model itself, with or without LoRA, where this file knows all that it does in training."""
    if isinstance(model, peft.PeftModel):
        model = model.get_base_model() if model.peft_type == peft.PeftType.LORA else model
    if type(model) not in FAMILY or model.is_activation_checkpointing:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    config: Any = model.config
    plain = config._attn_implementation == "sdpa" and not config.attention_dropout
    return model if plain and getattr(config, "sliding_window", None) is None else None


@dataclass(frozen=True)
class Row:
    """Prompts one after the other, each read for its answer at its last token."""

    tokens_S: Tensor
    positions_S: Tensor
    lengths: Sequence[int]
    answers_B: Tensor  # int64, places in the row

    @staticmethod
    def of(batch: TokenBatch) -> Row:
        """Leave the padding out."""
        place_BT = torch.arange(batch.mask_BT.shape[1], device=batch.mask_BT.device).expand_as(batch.mask_BT)
        inside_BT = batch.mask_BT.bool()
        lengths_B = batch.answer_B + 1
        return Row(batch.token_ids_BT[inside_BT], place_BT[inside_BT], lengths_B.tolist(), lengths_B.cumsum(0) - 1)


def answer(model: Any, row: Row, with_hidden: bool) -> LlmOutput:
    """Return what the model's head says at each answer, and the hidden states there after every layer, if they are asked."""
    body = model.model
    states_SX = body.embed_tokens(row.tokens_S)
    cos_1SE, sin_1SE = body.rotary_emb(states_SX, row.positions_S[None])
    # Rotation of halves as one product more: the sign of the swapped half is that of the sines.
    half = sin_1SE.shape[-1] // 2
    turn = _Turn(cos_1SE[0][:, None], torch.cat([-sin_1SE[0][:, None, :half], sin_1SE[0][:, None, half:]], -1))
    hidden: list[Tensor] = []
    *layers, last = body.layers
    for layer in layers:
        states_SX = _layer(layer, row, states_SX, turn, read=False)
        if with_hidden:
            hidden.append(states_SX[row.answers_B])
    final_BX = body.norm(_layer(last, row, states_SX, turn, read=True))
    return LlmOutput(model.lm_head(final_BX), (*hidden, final_BX) if with_hidden else ())


@dataclass(frozen=True)
class _Turn:
    """The rotations of queries and keys by their places (RoPE)."""

    cos_S1E: Tensor
    sin_S1E: Tensor  # the first half negated

    def at(self, places_B: Tensor) -> _Turn:
        return _Turn(self.cos_S1E[places_B], self.sin_S1E[places_B])

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


def _layer(layer: Any, row: Row, states_SX: Tensor, turn: _Turn, read: bool) -> Tensor:
    """Return the states after a layer: of all tokens, or where answers are read."""
    own = layer.self_attn
    normed_SX = layer.input_layernorm(states_SX)
    key_SKE, value_SKE = turn(_heads(own, "k", normed_SX)), _heads(own, "v", normed_SX)
    if read:
        states_SX, normed_SX, turn = states_SX[row.answers_B], normed_SX[row.answers_B], turn.at(row.answers_B)
    query_SHE = turn(_heads(own, "q", normed_SX))
    seen_SHE = (attend_last if read else attend)(query_SHE, key_SKE, value_SKE, row.lengths, own.scaling)
    states_SX = states_SX + own.o_proj(seen_SHE.flatten(1))
    return states_SX + layer.mlp(layer.post_attention_layernorm(states_SX))


def _heads(own: Any, name: str, states_SX: Tensor) -> Tensor:
    """Return queries, keys or values by heads; Qwen3 norms the first two."""
    found_SHE = getattr(own, f"{name}_proj")(states_SX).unflatten(-1, (-1, own.head_dim))
    norm = getattr(own, f"{name}_norm", None)
    return found_SHE if norm is None else norm(found_SHE)
