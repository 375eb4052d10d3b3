"""Click probabilities for all candidates of a user: the user's part of the prompt is read once, not once a candidate.

Prefixes are padded on the left, as batched generation pads them: no hole between a prefix and what follows, so that windows of
attention reach as far as they do in the whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

from components.llm.answer import ClickLlm
from components.llm.scorer import packed, score
from components.llm.tokens import SharedPrompts, TokenIds, collate
from components.types import LlmOutput


def score_shared(
    llm: ClickLlm, users: Sequence[SharedPrompts], max_batch_tokens: int = 4096, device: str = "cpu"
) -> list[NDArray[np.float64]]:
    """Return the probability of Yes for each candidate of each user, in their order: `scorer.score` of the whole prompts.

    `max_batch_tokens` bounds the prefixes held at a time, and the candidates held at a time, each counted with its prefix and
    padding; what is longer makes a batch of its own.
    """
    assert all(len(suffix) for user in users for suffix in user.suffixes), "a suffix is empty: nowhere to read its answer"
    ends = np.cumsum([len(user.suffixes) for user in users], dtype=np.int64)
    if llm.layout.masked or not _keeps_every_token(llm):
        whole = [np.concatenate([user.prefix, suffix]) for user in users for suffix in user.suffixes]
        return np.split(score(llm, whole, max_batch_tokens, device), ends)[:-1]
    p = np.empty(ends[-1] if users else 0, np.float64)
    asked = [(end - len(user.suffixes), user) for end, user in zip(ends, users, strict=True) if user.suffixes]
    was_training = llm.training
    llm.eval()
    with torch.inference_mode():
        for batch in packed(np.array([len(user.prefix) for _, user in asked], np.int64), max_batch_tokens):
            starts, together = zip(*(asked[row] for row in batch), strict=True)
            rows = np.concatenate([start + np.arange(len(user.suffixes)) for start, user in zip(starts, together, strict=True)])
            for part, logits_B in _logits(llm, together, max_batch_tokens, device):
                p[rows[part]] = torch.sigmoid(logits_B.double()).cpu().numpy()
    llm.train(was_training)
    return np.split(p, ends)[:-1]


def _keeps_every_token(llm: ClickLlm) -> bool:
    """Tell models that remember keys and values from those (Mamba's kind) that remember a running state."""
    config = getattr(llm.language_model, "config", None)
    return isinstance(config, PreTrainedConfig) and not any(DynamicCache(config=config).is_linear)


def _logits(
    llm: ClickLlm, users: Sequence[SharedPrompts], max_batch_tokens: int, device: str
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield click logits of batches of candidates, and which they are of the users' candidates one after another."""
    prefixes = _Prefixes.read(llm, [user.prefix for user in users], device)
    user_C = np.repeat(np.arange(len(users)), [len(user.suffixes) for user in users])
    suffixes = [suffix for user in users for suffix in user.suffixes]
    for part in packed(prefixes.mask_UP.shape[1] + np.array([len(suffix) for suffix in suffixes], np.int64), max_batch_tokens):
        yield part, prefixes.continued(llm, [suffixes[row] for row in part], torch.from_numpy(user_C[part]).to(device))


@dataclass(frozen=True)
class _Prefixes:
    """What a model remembers of the prefixes of some users."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values, each [U, heads, P, head size]
    mask_UP: Tensor  # int64, 1 = token, 0 = padding on the left

    @staticmethod
    def read(llm: ClickLlm, prefixes: Sequence[TokenIds], device: str) -> _Prefixes:
        width = max(1, *map(len, prefixes))  # a prefix of no tokens is all padding
        lengths_U = np.array([len(prefix) for prefix in prefixes])
        mask_UP = np.arange(width) >= width - lengths_U[:, None]
        token_ids_UP = np.full(mask_UP.shape, llm.layout.pad_id, np.int64)
        token_ids_UP[mask_UP] = np.concatenate(prefixes)
        mask = torch.from_numpy(mask_UP.astype(np.int64)).to(device)
        # Without the model's configuration a cache keeps all tokens, also those that a window has left behind.
        cache: Any = DynamicCache()
        positions_UP = (mask.cumsum(-1) - 1).clamp(min=0)
        tokens = torch.from_numpy(token_ids_UP).to(device)
        llm.language_model(tokens, attention_mask=mask, position_ids=positions_UP, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return _Prefixes(tuple((keys, values) for keys, values, _ in cache), mask)

    def continued(self, llm: ClickLlm, suffixes: Sequence[TokenIds], user_B: Tensor) -> Tensor:
        """Return the click logits [B] of suffixes, each after the prefix of its user."""
        batch = collate(suffixes, llm.layout).to(str(user_B.device))
        prefix_B = self.mask_UP[user_B].sum(-1, keepdim=True)
        steps_T = torch.arange(batch.token_ids_BT.shape[1], device=user_B.device)
        output = llm.language_model(
            batch.token_ids_BT,
            attention_mask=torch.cat([self.mask_UP[user_B], batch.mask_BT], dim=-1),
            # Padding stays at its row's last position: the next one might be one too many for learned positions.
            position_ids=prefix_B + torch.minimum(steps_T, batch.answer_B[:, None]),
            past_key_values=Cache(layers=[_Continued(keys, values, user_B) for keys, values in self.layers]),
            use_cache=True,
            logits_to_keep=batch.answer_B[:, None],
        )
        return LlmOutput(output.logits[:, 0], ()).logits_B


class _Continued(DynamicLayer):
    """Keys and values of prefixes, joined with those of the rows that follow them for as long as one layer of a model runs."""

    def __init__(self, keys: Tensor, values: Tensor, user_B: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True  # by these the layer tells its length
        self._prefix, self._user_B = (keys, values), user_B

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = self._prefix
        return self._join(keys, key_states), self._join(values, value_states)

    def _join(self, prefix: Tensor, own: Tensor) -> Tensor:
        # One user's prefix is seen by all rows without a copy of its own.
        rows = prefix.expand(len(own), -1, -1, -1) if len(prefix) == 1 else prefix[self._user_B]
        return torch.cat([rows, own], dim=-2)
