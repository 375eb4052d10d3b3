"""Answers of the Llama family over a packed row, computed from the modules of transformers without what nobody asks for.

The last layer is computed where the answers are read, and its keys and values alone elsewhere; what follows a product is computed
with it. The parameters are the model's own: nothing is copied, so that training and moving a model need not know of this file.
"""

from __future__ import annotations

from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from components.llm.packing import Packing
from components.llm.products import linear
from components.llm.shared_attention import attend, attend_answers

FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


def understood(model: nn.Module) -> Any | None:
    """Return the model itself where this file knows all that it does, with or without LoRA."""
    if isinstance(model, peft.PeftModel):
        model = model.get_base_model() if model.peft_type == peft.PeftType.LORA else model
    return model if type(model) in FAMILY and getattr(model.config, "hidden_act", None) == "silu" else None


def fits(model: Any, packing: Packing) -> bool:
    """Tell whether each token sees all that stands before it."""
    window = getattr(model.config, "sliding_window", None)
    return window is None or window >= packing.longest


def answers(model: Any, packing: Packing) -> Tensor:
    """Return what the model's head says at each candidate's answer, [C, 2]."""
    body = model.model
    # Before attention a token's vectors do not depend on where it stands, and most tokens of a row stand in it often.
    distinct_V, which_S = packing.tokens_S.unique(return_inverse=True)
    hidden_VX = body.embed_tokens(distinct_V)
    cos, sin = (each[0][:, None] for each in body.rotary_emb(hidden_VX, packing.positions_S[None]))
    turns = cos, torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]], -1)
    *layers, last = body.layers
    hidden, which = hidden_VX, which_S
    for layer in layers:
        hidden, which = _block(layer, packing, hidden, turns, which, None), None
    return model.lm_head(body.norm(_block(last, packing, hidden, turns, which, packing.answers_C)))


def _block(layer: Any, packing: Packing, hidden: Tensor, turns: tuple[Tensor, Tensor], which: Tensor | None, at: Tensor | None) -> Tensor:
    """Return the hidden states after a layer, of all tokens or of those `at` the answers; `which` are each token's among `hidden`."""
    own = layer.self_attn
    x = layer.input_layernorm(hidden)
    key, value = (_taken(_heads(own, name, x), which) for name in "kv")
    key = _turned(key, turns)
    if at is None:
        query, hidden = _taken(_heads(own, "q", x), which), _taken(hidden, which)
    else:
        rows = at if which is None else which[at]
        query, hidden, turns = _heads(own, "q", _taken(x, rows)), _taken(hidden, rows), (turns[0][at], turns[1][at])
    seen = (attend if at is None else attend_answers)(packing, own.layer_idx, _turned(query, turns), key, value, own.scaling)
    hidden = linear(own.o_proj, seen.flatten(1), "plus", hidden)
    x = layer.post_attention_layernorm(hidden)
    inner = linear(layer.mlp.up_proj, x, "times", linear(layer.mlp.gate_proj, x, "silu"))
    return linear(layer.mlp.down_proj, inner, "plus", hidden)


def _taken(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)


def _heads(own: Any, name: str, x_NX: Tensor) -> Tensor:
    """Return queries, keys or values by heads, [N, H, E]; Qwen3 norms the first two."""
    found_NHE = linear(getattr(own, f"{name}_proj"), x_NX).unflatten(-1, (-1, own.head_dim))
    norm = getattr(own, f"{name}_norm", None)
    return found_NHE if norm is None else norm(found_NHE)


def _turned(x_NHE: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn by position (RoPE): each half of a head with the other, the sign being that of the sines."""
    cos, sin = turns
    return (x_NHE * cos).addcmul_(x_NHE.roll(x_NHE.shape[-1] // 2, -1), sin)
