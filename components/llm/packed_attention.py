"""Attention for whole users in one row of tokens: a candidate sees its user's prefix and itself, and nothing is padded or copied.

A row holds the prefixes of some users, one after the other, and then the suffixes of all their candidates. Everything in a
transformer but its attention treats tokens one by one, so that only attention has to know which of them belong together. It is
registered with transformers as an attention of its own, which does what SDPA does wherever no packing is set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "tandem_packed"
# What models hand to attention beside its inputs and what does not change what it computes here.
HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "logits_to_keep"}


class UnpackableError(Exception):
    """An attention that means more than this file knows; the prompts have to be read whole."""


@dataclass(frozen=True)
class Packing:
    """Where users and candidates stand in a row of tokens."""

    prefixes: tuple[slice, ...]  # of each user, in the row
    suffixes: tuple[slice, ...]  # of each user's candidates together, counted from the end of all prefixes
    prefix_tokens: int
    longest: int  # tokens of the longest prompt, prefix and suffix
    grid_CT: Tensor  # int64, the suffix token in each cell; cells beyond a suffix repeat its first token
    cell_N: Tensor  # int64, the cell of each suffix token in the flattened grid

    @staticmethod
    def of(prefix_lengths: Sequence[int], suffix_lengths: Sequence[Sequence[int]], device: str) -> Packing:
        """Lay out users with their candidates; each suffix has at least one token."""
        flat_C = np.array([length for lengths in suffix_lengths for length in lengths], np.int64)
        starts_C = np.cumsum(flat_C) - flat_C
        steps_T = np.arange(flat_C.max())
        inside_CT = steps_T < flat_C[:, None]
        grid_CT = starts_C[:, None] + np.where(inside_CT, steps_T, 0)
        longest = max(prefix + max(lengths) for prefix, lengths in zip(prefix_lengths, suffix_lengths, strict=True))
        return Packing(
            _slices(prefix_lengths),
            _slices([sum(lengths) for lengths in suffix_lengths]),
            sum(prefix_lengths),
            longest,
            torch.from_numpy(grid_CT).to(device),
            torch.from_numpy(np.flatnonzero(inside_CT)).to(device),
        )


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
    if unknown or (window is not None and window < packing.longest):
        raise UnpackableError(f"{type(module).__name__}: {', '.join(unknown) or 'a window'}")
    return _attend(packing, query[0], key[0], value[0], scaling or query.shape[-1] ** -0.5).transpose(0, 1).unsqueeze(0), None


def _attend(packing: Packing, query_HSE: Tensor, key_KSE: Tensor, value_KSE: Tensor, scaling: float) -> Tensor:
    """Return [H, S, E]; H query heads share K heads of keys and values, E is a head's size."""
    found_HSE = torch.empty_like(query_HSE)
    shared = key_KSE.shape[0] != query_HSE.shape[0]
    for at in packing.prefixes:
        if at.stop > at.start:
            query, key, value = (each[None, :, at] for each in (query_HSE, key_KSE, value_KSE))
            found_HSE[:, at] = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=shared)[
                0
            ]
    first = packing.prefix_tokens
    # Scores in full precision, as SDPA has them inside: rounded to bfloat16 they would move a probability by a hundredth.
    query_HNE = query_HSE[:, first:].float() * scaling
    found_HSE[:, first:] = _suffixes(packing, query_HNE, key_KSE.float(), value_KSE).flatten(0, 1)
    return found_HSE


def _suffixes(packing: Packing, query_HNE: Tensor, key_KSE: Tensor, value_KSE: Tensor) -> Tensor:
    """Return [K, G, N, E] for the suffix tokens, G query heads to each head of keys; queries are scaled already."""
    first, grid_CT, cell_N = packing.prefix_tokens, packing.grid_CT, packing.cell_N
    steps = grid_CT.shape[1]
    query_KGNE = query_HNE.unflatten(0, (len(key_KSE), -1))
    key_KCTE, value_KCTE = (each[:, first:][:, grid_CT].unsqueeze(1) for each in (key_KSE, value_KSE))
    own_KGCTT = query_KGNE[:, :, grid_CT] @ key_KCTE.mT
    future_TT = torch.ones(steps, steps, dtype=torch.bool, device=grid_CT.device).triu(1)
    own_KGNT = own_KGCTT.masked_fill(future_TT, -math.inf).flatten(2, 3)[:, :, cell_N]
    found_KGNE = torch.empty_like(query_KGNE, dtype=value_KSE.dtype)
    weights_KGNT = torch.empty_like(own_KGNT, dtype=value_KSE.dtype)
    for prefix, rows in zip(packing.prefixes, packing.suffixes, strict=True):
        # One product for all query heads of a head of keys: the prefix is read where it stands.
        to_prefix = query_KGNE[:, :, rows].flatten(1, 2) @ key_KSE[:, prefix].mT
        scores_KGNX = torch.cat([to_prefix.unflatten(1, (-1, rows.stop - rows.start)), own_KGNT[:, :, rows]], dim=-1)
        weights_KGNX = scores_KGNX.softmax(-1).to(value_KSE.dtype)
        length = prefix.stop - prefix.start
        by_prefix = weights_KGNX[..., :length].flatten(1, 2) @ value_KSE[:, prefix]
        found_KGNE[:, :, rows] = by_prefix.unflatten(1, (-1, rows.stop - rows.start))
        weights_KGNT[:, :, rows] = weights_KGNX[..., length:]
    weights_KGXT = weights_KGNT.new_zeros(*weights_KGNT.shape[:2], grid_CT.numel(), steps)
    weights_KGXT[:, :, cell_N] = weights_KGNT
    return found_KGNE + (weights_KGXT.unflatten(2, grid_CT.shape) @ value_KCTE).flatten(2, 3)[:, :, cell_N]


def _mask(*given: Any, **options: Any) -> Tensor | None:
    return None if _packing.get() is not None else sdpa_mask(*given, **options)


def _slices(lengths: Sequence[int]) -> tuple[slice, ...]:
    stops = np.cumsum(lengths).tolist()
    return tuple(slice(stop - length, stop) for stop, length in zip(stops, lengths, strict=True))


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, _mask)
