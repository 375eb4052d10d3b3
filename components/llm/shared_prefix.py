"""Click probabilities for all candidates of a user: the user's part of the prompt is read once, not once a candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedConfig

from components.llm import packed_attention
from components.llm.answer import ClickLlm
from components.llm.packed_attention import Packing, UnpackableError
from components.llm.scorer import score
from components.llm.tokens import SharedPrompts
from components.types import LlmOutput


def score_shared(
    llm: ClickLlm, users: Sequence[SharedPrompts], max_batch_tokens: int = 4096, device: str = "cpu"
) -> list[NDArray[np.float64]]:
    """Return the probability of Yes for each candidate of each user, in their order: `scorer.score` of the whole prompts.

    `max_batch_tokens` bounds the tokens that are read at once; a prefix with one suffix that are longer make a batch of their own.
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
        for batch in _batches([_shorter(user) for user in users if user.suffixes], max_batch_tokens):
            try:
                found = _packed(llm, batch, device)
            except UnpackableError:
                found = _whole(llm, batch, max_batch_tokens, device)
            p[done : done + len(found)] = found
            done += len(found)
    llm.train(was_training)
    return np.split(p, ends)[:-1]


def _packed(llm: ClickLlm, users: Sequence[SharedPrompts], device: str) -> NDArray[np.float64]:
    """Read users in one row of tokens."""
    suffixes = [suffix for user in users for suffix in user.suffixes]
    lengths_C = np.array([len(suffix) for suffix in suffixes])
    before_C = np.repeat([len(user.prefix) for user in users], [len(user.suffixes) for user in users])
    packing = Packing.of([len(user.prefix) for user in users], [[len(each) for each in user.suffixes] for user in users], device)
    tokens_S = np.concatenate([*(user.prefix for user in users), *suffixes]).astype(np.int64)
    own_N = np.arange(lengths_C.sum()) - np.repeat(np.cumsum(lengths_C) - lengths_C, lengths_C)
    positions_S = np.concatenate([*(np.arange(len(user.prefix)) for user in users), own_N + np.repeat(before_C, lengths_C)])
    answers_C = packing.prefix_tokens + np.cumsum(lengths_C) - 1 - llm.layout.after_answer
    with packed_attention.packed(packing):
        output = llm.language_model(
            torch.from_numpy(tokens_S)[None].to(device),
            position_ids=torch.from_numpy(positions_S)[None].to(device),
            use_cache=False,
            logits_to_keep=torch.from_numpy(answers_C).to(device),
        )
    return torch.sigmoid(LlmOutput(output.logits[0], ()).logits_B.double()).cpu().numpy()


def _whole(llm: ClickLlm, users: Sequence[SharedPrompts], max_batch_tokens: int, device: str) -> NDArray[np.float64]:
    """Read each prompt by itself."""
    return score(llm, [np.concatenate([user.prefix, suffix]) for user in users for suffix in user.suffixes], max_batch_tokens, device)


def _keeps_every_token(llm: ClickLlm) -> bool:
    """Tell models that remember keys and values from those (Mamba's kind) that remember a running state."""
    config = getattr(llm.language_model, "config", None)
    return isinstance(config, PreTrainedConfig) and not any(DynamicCache(config=config).is_linear)


def _shorter(user: SharedPrompts) -> SharedPrompts:
    """Move the tokens that all suffixes begin with to the prefix, but for the last of the shortest suffix."""
    ordered = sorted(tuple(suffix) for suffix in user.suffixes)
    first, last = ordered[0], ordered[-1]  # what these two share, all between them share
    room = min(map(len, ordered)) - 1
    common = next((at for at in range(room) if first[at] != last[at]), room)
    if not common:
        return user
    prefix = np.concatenate([user.prefix, user.suffixes[0][:common]])
    return SharedPrompts(prefix, tuple(suffix[common:] for suffix in user.suffixes))


def _batches(users: Sequence[SharedPrompts], max_batch_tokens: int) -> Iterator[list[SharedPrompts]]:
    """Cut users with their candidates into batches; a user with more candidates than fit is read in several."""
    batch: list[SharedPrompts] = []
    room = max_batch_tokens
    for user in users:
        left = list(user.suffixes)
        while left:
            ends = np.cumsum([len(suffix) for suffix in left])
            fitting = int(np.searchsorted(ends, room - len(user.prefix), side="right"))
            if not fitting and batch:
                yield batch
                batch, room = [], max_batch_tokens
                continue
            taken = max(fitting, 1)
            batch.append(SharedPrompts(user.prefix, tuple(left[:taken])))
            room -= len(user.prefix) + int(ends[taken - 1])
            left = left[taken:]
    if batch:
        yield batch
