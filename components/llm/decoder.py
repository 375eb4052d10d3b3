"""Answers of the Llama family over a packed row, computed from the modules of transformers without what nobody asks for.

The last layer is computed where the answers are read, and its keys and values alone elsewhere; what follows a product is computed
with it. The parameters are the model's own: nothing is copied, so that training and moving a model need not know of this file.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from components.llm.llama import Turn, heads, member
from components.llm.packing import Packing
from components.llm.products import linear
from components.llm.shared_attention import attend, attend_answers


def understood(model: nn.Module) -> Any | None:
    """Return the model itself where this file knows all that it does, with or without LoRA."""
    found = member(model)
    return found if getattr(getattr(found, "config", None), "hidden_act", None) == "silu" else None


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
    turn = Turn.of(body, hidden_VX, packing.positions_S)
    *layers, last = body.layers
    hidden, which = hidden_VX, which_S
    for layer in layers:
        hidden, which = _block(layer, packing, hidden, turn, which, None), None
    return model.lm_head(body.norm(_block(last, packing, hidden, turn, which, packing.answers_C)))


def _block(layer: Any, packing: Packing, hidden: Tensor, turn: Turn, which: Tensor | None, at: Tensor | None) -> Tensor:
    """Return the hidden states after a layer, of all tokens or of those `at` the answers; `which` are each token's among `hidden`."""
    own = layer.self_attn
    x = layer.input_layernorm(hidden)
    key, value = (_taken(heads(own, name, linear(getattr(own, f"{name}_proj"), x)), which) for name in "kv")
    key = turn(key)
    if at is None:
        query, hidden = _taken(heads(own, "q", linear(own.q_proj, x)), which), _taken(hidden, which)
    else:
        rows = at if which is None else which[at]
        query, hidden, turn = heads(own, "q", linear(own.q_proj, _taken(x, rows))), _taken(hidden, rows), turn.at(at)
    seen = (attend if at is None else attend_answers)(packing, own.layer_idx, turn(query), key, value, own.scaling)
    hidden = linear(own.o_proj, seen.flatten(1), "plus", hidden)
    x = layer.post_attention_layernorm(hidden)
    inner = linear(layer.mlp.up_proj, x, "times", linear(layer.mlp.gate_proj, x, "silu"))
    return linear(layer.mlp.down_proj, inner, "plus", hidden)


def _taken(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)
