"""Click probabilities for samples: those of one user with one history, as in a request, share the reading of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.llm.answer import ClickLlm
from components.llm.scorer import score
from components.llm.shared_prefix import MAX_BATCH_TOKENS, score_shared
from components.llm.tokens import SharedPrompts


def score_prompts(
    llm: ClickLlm,
    prompts: Sequence[NDArray[np.integer]],
    prefix_lengths: Sequence[int],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Return the probability of Yes for each prompt, in their order; `prefix_lengths` are the tokens before its candidate."""
    rows_of: dict[bytes, list[int]] = {}
    tokens = [prompt.astype(np.int32) for prompt in prompts]
    for row, (prompt, length) in enumerate(zip(tokens, prefix_lengths, strict=True)):
        rows_of.setdefault(prompt[:length].tobytes(), []).append(row)
    p = np.empty(len(prompts), np.float64)
    groups = list(rows_of.values())
    if device != "cpu":  # there, kernels take padded batches of prompts that share nothing better than packed ones
        alone = [rows[0] for rows in groups if len(rows) == 1]
        p[alone] = score(llm, [tokens[row] for row in alone], max_batch_tokens, device)
        groups = [rows for rows in groups if len(rows) > 1]
    users = [
        SharedPrompts(tokens[rows[0]][: prefix_lengths[rows[0]]], tuple(tokens[row][prefix_lengths[row] :] for row in rows))
        for rows in groups
    ]
    for rows, found in zip(groups, score_shared(llm, users, max_batch_tokens, device), strict=True):
        p[rows] = found
    return p
