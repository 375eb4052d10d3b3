"""Training the Llama family on prompts that follow one another in a row: nothing is padded, nothing computed that no answer depends on.

The last layer is computed where the answers are read, and its keys and values alone elsewhere. Each module of transformers is
called as such, so that adapters, and the hooks by which ZeRO gathers weights, stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.llm.causal_attention import attend, attend_last
from components.llm.llama import Turn, heads, member
from components.types import LlmOutput, TokenBatch


def understood(model: nn.Module) -> Any | None:
    """Return the model itself, with or without LoRA, where this file knows all that it does in training."""
    found = member(model)
    if found is None or found.is_activation_checkpointing:
        return None
    config = found.config
    plain = config._attn_implementation == "sdpa" and not config.attention_dropout
    return found if plain and getattr(config, "sliding_window", None) is None else None


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
    turn = Turn.of(body, states_SX, row.positions_S)
    hidden: list[Tensor] = []
    *layers, last = body.layers
    for layer in layers:
        states_SX = _layer(layer, row, states_SX, turn, read=False)
        if with_hidden:
            hidden.append(states_SX[row.answers_B])
    final_BX = body.norm(_layer(last, row, states_SX, turn, read=True))
    return LlmOutput(model.lm_head(final_BX), (*hidden, final_BX) if with_hidden else ())


def _layer(layer: Any, row: Row, states_SX: Tensor, turn: Turn, read: bool) -> Tensor:
    """Return the states after a layer: of all tokens, or where answers are read."""
    own = layer.self_attn
    normed_SX = layer.input_layernorm(states_SX)
    key_SKE, value_SKE = turn(heads(own, "k", own.k_proj(normed_SX))), heads(own, "v", own.v_proj(normed_SX))
    if read:
        states_SX, normed_SX, turn = states_SX[row.answers_B], normed_SX[row.answers_B], turn.at(row.answers_B)
    query_SHE = turn(heads(own, "q", own.q_proj(normed_SX)))
    seen_SHE = (attend_last if read else attend)(query_SHE, key_SKE, value_SKE, row.lengths, own.scaling)
    states_SX = states_SX + own.o_proj(seen_SHE.flatten(1))
    return states_SX + layer.mlp(layer.post_attention_layernorm(states_SX))
