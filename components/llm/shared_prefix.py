"""Click probabilities for all candidates of a user: the user's part of the prompt is read once, not once a candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from components.llm import decoder, packed_attention
from components.llm.answer import ClickLlm
from components.llm.packed_attention import UnpackableError
from components.llm.packing import Packing, Reading
from components.llm.prefix_cache import PrefixCache
from components.llm.scorer import score
from components.llm.tokens import SharedPrompts, TokenIds
from components.types import LlmOutput

MAX_BATCH_TOKENS = 4_096


def score_shared(
    llm: ClickLlm,
    users: Sequence[SharedPrompts],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    device: str = "cpu",
    cache: PrefixCache | None = None,
) -> list[NDArray[np.float64]]:
    """Return the probability of Yes for each candidate of each user, in their order: `scorer.score` of the whole prompts.

    `max_batch_tokens` bounds the tokens that are read at once; a prefix with one suffix that are longer make a batch of their own.
    A prefix that `cache` holds is not read at all, others are put there.
    """
    assert all(len(suffix) for user in users for suffix in user.suffixes), "a suffix is empty: nowhere to read its answer"
    ends = np.cumsum([len(user.suffixes) for user in users], dtype=np.int64)
    p = np.empty(ends[-1] if users else 0, np.float64)
    if llm.layout.masked or not _keeps_every_token(llm) or not packed_attention.enable(llm.language_model):
        p[:] = _whole(llm, users, max_batch_tokens, device)
        return np.split(p, ends)[:-1]
    was_training = llm.training
    llm.eval()
    done = 0
    with torch.inference_mode():
        for batch in _batches([user for user in users if user.suffixes], max_batch_tokens, lambda user: _recalled(user, cache)):
            try:
                found = _packed(llm, [reading for _, reading in batch], device)
            except UnpackableError:
                found = _whole(llm, [reading for _, reading in batch], max_batch_tokens, device)
            else:
                _keep(batch, cache)
            p[done : done + len(found)] = found
            done += len(found)
    llm.train(was_training)
    return np.split(p, ends)[:-1]


def _packed(llm: ClickLlm, readings: Sequence[Reading], device: str) -> NDArray[np.float64]:
    """Read users in one row of tokens."""
    packing = Packing.of(readings, device)
    model = decoder.understood(llm.language_model)
    if model is not None and decoder.fits(model, packing):
        logits_C2 = decoder.answers(model, packing)
    else:
        logits_C2 = _by_transformers(llm.language_model, packing)
    return torch.sigmoid(LlmOutput(logits_C2, ()).logits_B.double()).cpu().numpy()


def _by_transformers(model: torch.nn.Module, packing: Packing) -> Tensor:
    with packed_attention.packed(packing):
        return model(
            packing.tokens_S[None], position_ids=packing.positions_S[None], use_cache=False, logits_to_keep=packing.answers_C
        ).logits[0]


def _whole(llm: ClickLlm, users: Sequence[SharedPrompts | Reading], max_batch_tokens: int, device: str) -> NDArray[np.float64]:
    """Read each prompt by itself."""
    return score(llm, [np.concatenate([user.prefix, suffix]) for user in users for suffix in user.suffixes], max_batch_tokens, device)


def _keeps_every_token(llm: ClickLlm) -> bool:
    """Tell models that remember keys and values from those (Mamba's kind) that remember a running state."""
    config = getattr(llm.language_model, "config", None)
    return isinstance(config, PreTrainedConfig) and not any(DynamicCache(config=config).is_linear)


def _recalled(user: SharedPrompts, cache: PrefixCache | None) -> Reading:
    """Return how to read a user: with the keys and values that are known, or with room for those that will be."""
    if cache is None and len(user.suffixes) == 1:  # nothing is shared, and prompts of like length are attended to together
        return Reading(user.prefix[:0], (np.concatenate([user.prefix, user.suffixes[0]]),))
    reading = shortened(user)
    if cache is None:
        return reading
    if (kept := cache.find(user.prefix)) is None:
        return replace(reading, layers=[])
    tokens, layers = kept
    known = _common(tokens, reading.prefix)
    suffixes = tuple(np.concatenate([reading.prefix[known:], suffix]) for suffix in reading.suffixes)
    return Reading(reading.prefix[:known], suffixes, [(key[:known], value[:known]) for key, value in layers], known=True)


def shortened(user: SharedPrompts) -> Reading:
    """Move the tokens that all suffixes begin with to the prefix, but for the last of the shortest suffix."""
    ordered = sorted(tuple(suffix) for suffix in user.suffixes)
    # What the first and the last share, all between them share.
    common = min(_common(np.array(ordered[0]), np.array(ordered[-1])), min(map(len, ordered)) - 1)
    prefix = np.concatenate([user.prefix, user.suffixes[0][:common]])
    return Reading(prefix, tuple(suffix[common:] for suffix in user.suffixes))


def _common(first: TokenIds, other: TokenIds) -> int:
    """Return how many tokens both begin with."""
    room = min(len(first), len(other))
    different = np.flatnonzero(first[:room] != other[:room])
    return int(different[0]) if len(different) else room


def _keep(batch: Sequence[tuple[SharedPrompts, Reading]], cache: PrefixCache | None) -> None:
    for user, reading in batch:
        if cache is not None and reading.layers and not reading.known:
            cache.keep(user.prefix, reading.prefix, reading.layers)


def _batches(
    users: Sequence[SharedPrompts], max_batch_tokens: int, recalled: Callable[[SharedPrompts], Reading]
) -> Iterator[list[tuple[SharedPrompts, Reading]]]:
    """Cut users with their candidates into batches; a user with more candidates than fit is read in several."""
    batch: list[tuple[SharedPrompts, Reading]] = []
    room = max_batch_tokens
    for user in users:
        left = user
        while left.suffixes:
            reading = recalled(left)
            ends = np.cumsum([len(suffix) for suffix in reading.suffixes])
            fitting = int(np.searchsorted(ends, room - reading.row_tokens, side="right"))
            if not fitting and batch:
                yield batch
                batch, room = [], max_batch_tokens
                continue
            taken = max(fitting, 1)
            batch.append((left, replace(reading, suffixes=reading.suffixes[:taken])))
            room -= reading.row_tokens + int(ends[taken - 1])
            left = replace(left, suffixes=left.suffixes[taken:])
    if batch:
        yield batch
