"""Attention in a packed row: a candidate sees its user's prefix and itself, and no key or value is copied for it.

A candidate's attention is the mix of two: to the prefix, all of a user's candidates at once, and to its own suffix. Each comes with
the logarithm of its sum of exponentials, which says how much of the softmax over both belongs to it. Axes: H query heads share K
heads of keys and values, E is a head's size, M keys; scores are in full precision whatever the model's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from components.llm.packing import Packing

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # what SDPA calls, with the sums that it drops


def attend(packing: Packing, layer: int, query_SHE: Tensor, key_SKE: Tensor, value_SKE: Tensor, scaling: float) -> Tensor:
    """Return what each token of the row attends to, [S, H, E]."""
    found_SHE = torch.empty_like(query_SHE)
    for at in packing.prefixes:
        if at.stop > at.start:
            query, key, value = (each[at].transpose(0, 1)[None] for each in (query_SHE, key_SKE, value_SKE))
            seen = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
            found_SHE[at] = seen[0].transpose(0, 1)
    query_NHE = query_SHE[packing.prefix_tokens :]
    to_prefix = _to_prefixes(packing, packing.suffixes, layer, query_NHE, key_SKE, value_SKE, scaling)
    cells = [each[packing.prefix_tokens :].index_select(0, packing.grid_X) for each in (query_SHE, key_SKE, value_SKE)]
    own = [
        attention(query.unflatten(0, grid), key.unflatten(0, grid), value.unflatten(0, grid), scaling, causal=True)
        for grid, query, key, value in zip(packing.grids, *(_split(each, packing) for each in cells), strict=True)
    ]
    found_SHE[packing.prefix_tokens :] = _mixed(to_prefix, own, packing.cell_N)
    return found_SHE


def attend_answers(packing: Packing, layer: int, query_CHE: Tensor, key_SKE: Tensor, value_SKE: Tensor, scaling: float) -> Tensor:
    """Return what each candidate's last token attends to, [C, H, E]: all that a last layer has to know."""
    to_prefix = _to_prefixes(packing, packing.candidates, layer, query_CHE, key_SKE, value_SKE, scaling)
    cells = (each[packing.prefix_tokens :].index_select(0, packing.grid_X) for each in (key_SKE, value_SKE))
    queries = query_CHE.index_select(0, packing.order_C).split([count for count, _ in packing.grids])
    grids = zip(packing.grids, queries, *(_split(each, packing) for each in cells), _split(packing.beyond_X, packing), strict=True)
    own = [
        attention(query[:, None], key.unflatten(0, grid), value.unflatten(0, grid), scaling, beyond_BM=beyond.unflatten(0, grid))
        for grid, query, key, value, beyond in grids
    ]
    return _mixed(to_prefix, own, packing.row_C)


def attention(
    query_BNHE: Tensor, key_BMKE: Tensor, value_BMKE: Tensor, scaling: float, causal: bool = False, beyond_BM: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return softmax(query key^T) value, [B, N, H, E], and the logarithm of each sum of exponentials, [B, N, H] in float32.

    Keys where `beyond_BM` holds are not seen.
    """
    query, key, value = (each.transpose(1, 2) for each in (query_BNHE, key_BMKE, value_BMKE))
    mask = None if beyond_BM is None else query.new_zeros(beyond_BM.shape).masked_fill(beyond_BM, -math.inf)[:, None, None]
    attend = _flash if query.device.type == "cpu" else _by_products
    found, sums = attend(query, key, value, 0.0, causal, attn_mask=mask, scale=scaling)
    return found.transpose(1, 2), sums.transpose(1, 2)


def _by_products(
    query: Tensor, key: Tensor, value: Tensor, _dropout: float, causal: bool, *, attn_mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Do what `_flash` does, on any device."""
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
    scores = query.float() @ key.float().mT * scale
    if attn_mask is not None:
        scores = scores + attn_mask
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1), -math.inf)
    sums = scores.logsumexp(-1)
    return (scores - sums[..., None]).exp().to(value.dtype) @ value, sums


def _to_prefixes(
    packing: Packing, rows: tuple[slice, ...], layer: int, query_NHE: Tensor, key_SKE: Tensor, value_SKE: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Let the queries of each user, at `rows`, see the user's prefix; where there is none, the sum is empty."""
    found_NHE = torch.zeros_like(query_NHE)
    sums_NH = query_NHE.new_full(query_NHE.shape[:2], -math.inf, dtype=torch.float32)
    for user, at in enumerate(rows):
        key, value = packing.prefix(user, layer, key_SKE, value_SKE)
        if len(key):
            found, sums = attention(query_NHE[None, at], key[None], value[None], scaling)
            found_NHE[at], sums_NH[at] = found[0], sums[0]
    return found_NHE, sums_NH


def _mixed(to_prefix: tuple[Tensor, Tensor], own: list[tuple[Tensor, Tensor]], cells: Tensor) -> Tensor:
    """Mix attention to prefixes with that to own suffixes, which stands in grids with a cell for each query."""
    found, sums = (torch.cat([each.flatten(0, 1) for each in parts]).index_select(0, cells) for parts in zip(*own, strict=True))
    prefix, prefix_sums = to_prefix
    # In full precision: a share of the softmax rounded to bfloat16 would move a candidate's score more than all else here.
    return torch.lerp(found.float(), prefix.float(), torch.sigmoid(prefix_sums - sums)[..., None]).to(found.dtype)


def _split(cells: Tensor, packing: Packing) -> tuple[Tensor, ...]:
    return cells.split([rows * width for rows, width in packing.grids])
