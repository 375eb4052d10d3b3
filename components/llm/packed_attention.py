"""Attention in packed rows for any transformers model: registered as an attention of its own, it is SDPA wherever no packing is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from components.llm.packing import Packing
from components.llm.shared_attention import attend

NAME = "tandem_packed"
# What models hand to attention beside its inputs and what does not change what it computes here.
HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "logits_to_keep"}


class UnpackableError(Exception):
    """An attention that means more than is known here; the prompts have to be read whole."""


_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """Let the attention of a model's forward pass in this thread follow a packing."""
    token = _packing.set(packing)
    try:
        yield
    finally:
        _packing.reset(token)


def enable(model: torch.nn.Module) -> bool:
    """Give a model this attention, for good, and return whether it has it: one with another attention than SDPA keeps its own."""
    inner = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
    if inner is None or not inner._supports_attention_backend:
        return False
    if inner.config._attn_implementation == "sdpa":
        inner.set_attn_implementation(NAME)
    return inner.config._attn_implementation == NAME


def _forward(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
    packing = _packing.get()
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    window, scaling = options.pop("sliding_window", None), options.pop("scaling", None)
    unknown = [name for name, given in options.items() if given is not None and name not in HARMLESS]
    if unknown or (window is not None and window < packing.longest) or query.shape[-1] != value.shape[-1]:
        raise UnpackableError(f"{type(module).__name__}: {', '.join(unknown) or 'a window, or values of another width'}")
    layer = getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        raise UnpackableError(f"{type(module).__name__}: a layer without number")
    query_SHE, key_SKE, value_SKE = (each[0].transpose(0, 1) for each in (query, key, value))
    return attend(packing, layer, query_SHE, key_SKE, value_SKE, scaling or query.shape[-1] ** -0.5)[None], None


def _mask(*given: Any, **options: Any) -> Tensor | None:
    return None if _packing.get() is not None else sdpa_mask(*given, **options)


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, _mask)
