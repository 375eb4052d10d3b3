"""Causal attention within prompts that follow one another in a row, with gradients. Axes: S tokens of the row, T of one prompt,
H heads of queries, K heads of keys and values, G query heads to each of these, N the queries of one head of keys, E a head's size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

LONGEST = 512  # tokens of a prompt whose weights, square in that, are kept for the gradient; in longer ones SDPA computes them again


def attend(query_SHE: Tensor, key_SKE: Tensor, value_SKE: Tensor, lengths: Sequence[int], scaling: float) -> Tensor:
    """Return [S, H, E]: each token sees its own prompt up to itself."""
    if query_SHE.dtype == torch.bfloat16 and max(lengths) <= LONGEST:
        return _Products.apply(query_SHE, key_SKE, value_SKE, lengths, lengths, scaling)  # pyright: ignore[reportReturnType]
    prompts = zip(*(each.split(list(lengths)) for each in (query_SHE, key_SKE, value_SKE)), strict=True)
    return torch.cat([_sdpa(query, key, value, scaling) for query, key, value in prompts])


def attend_last(query_BHE: Tensor, key_SKE: Tensor, value_SKE: Tensor, lengths: Sequence[int], scaling: float) -> Tensor:
    """Return [B, H, E] for one query a prompt, at its last token, which sees all of it."""
    return _Products.apply(query_BHE, key_SKE, value_SKE, [1] * len(lengths), lengths, scaling)  # pyright: ignore[reportReturnType]


def _sdpa(query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor, scaling: float) -> Tensor:
    query, key, value = (each.transpose(0, 1)[None] for each in (query_THE, key_TKE, value_TKE))
    shared = query_THE.shape[1] != key_TKE.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=shared)[0].transpose(0, 1)


class _Products(torch.autograd.Function):
    """Attention of the last tokens of each prompt, as many as are asked, by plain products of whole prompts.

    On a CPU the gradient of SDPA in bfloat16 takes four times as long, and that for a single query ten times. Scores and their
    softmax are in float32, as they are inside SDPA.
    """

    @staticmethod
    def forward(
        ctx: Any, query_SHE: Tensor, key_SKE: Tensor, value_SKE: Tensor, asked: Sequence[int], lengths: Sequence[int], scaling: float
    ) -> Tensor:
        heads, groups = key_SKE.shape[1], query_SHE.shape[1] // key_SKE.shape[1]
        future_TT = torch.full((max(lengths),) * 2, -math.inf, device=query_SHE.device).triu_(1)
        found_SHE = torch.empty_like(query_SHE, memory_format=torch.contiguous_format)
        weights: list[Tensor] = []
        for at, seen in _places(asked, lengths):
            query_KNE, key_KTE, value_KTE = _by_head(query_SHE[at], heads), key_SKE[seen].transpose(0, 1), value_SKE[seen].transpose(0, 1)
            count, length = at.stop - at.start, seen.stop - seen.start
            future_NT = future_TT[length - count : length, :length].expand(groups, -1, -1).flatten(0, 1)
            scores_KNT = torch.baddbmm(future_NT, query_KNE.float(), key_KTE.float().mT, alpha=scaling)
            weights.append(scores_KNT.softmax(-1).to(query_SHE.dtype))
            found_SHE[at] = _by_token(weights[-1] @ value_KTE, count)
        ctx.save_for_backward(query_SHE, key_SKE, value_SKE, *weights)
        ctx.asked, ctx.lengths, ctx.scaling = asked, lengths, scaling
        return found_SHE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_SHE: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query_SHE, key_SKE, value_SKE, *weights = ctx.saved_tensors
        heads = key_SKE.shape[1]
        to_query_SHE, to_key_SKE, to_value_SKE = (
            torch.empty_like(each, memory_format=torch.contiguous_format) for each in (query_SHE, key_SKE, value_SKE)
        )
        for (at, seen), weights_KNT in zip(_places(ctx.asked, ctx.lengths), weights, strict=True):
            query_KNE, gradient_KNE = _by_head(query_SHE[at], heads), _by_head(gradient_SHE[at], heads)
            key_KTE, value_KTE = key_SKE[seen].transpose(0, 1), value_SKE[seen].transpose(0, 1)
            to_weights_KNT = gradient_KNE @ value_KTE.mT
            to_scores_KNT = torch.ops.aten._softmax_backward_data(to_weights_KNT, weights_KNT, -1, weights_KNT.dtype)
            to_query_SHE[at] = _by_token(to_scores_KNT @ key_KTE, at.stop - at.start)
            to_key_SKE[seen] = (to_scores_KNT.mT @ query_KNE).transpose(0, 1)
            to_value_SKE[seen] = (weights_KNT.mT @ gradient_KNE).transpose(0, 1)
        return to_query_SHE.mul_(ctx.scaling), to_key_SKE.mul_(ctx.scaling), to_value_SKE, None, None, None


def _places(asked: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield where each prompt's queries stand, and where its keys do."""
    query = key = 0
    for count, length in zip(asked, lengths, strict=True):
        yield slice(query, query + count), slice(key, key + length)
        query, key = query + count, key + length


def _by_head(tokens_THE: Tensor, heads: int) -> Tensor:
    """Return [K, G T, E]: all queries of a head of keys below one another."""
    return tokens_THE.unflatten(1, (heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)


def _by_token(heads_KNE: Tensor, length: int) -> Tensor:
    """Return [T, H, E], the inverse."""
    return heads_KNE.unflatten(1, (-1, length)).permute(2, 0, 1, 3).flatten(1, 2)
