"""Click probabilities for many prompts: sorted by length and packed into batches of about equal numbers of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from components.llm.answer import ClickLlm
from components.llm.tokens import collate


def score(llm: ClickLlm, prompts: Sequence[NDArray[np.integer]], max_batch_tokens: int = 4096, device: str = "cpu") -> NDArray[np.float64]:
    """Return the probability of Yes for each prompt, in their order, in the precision that the model's weights have.

    `max_batch_tokens` counts padding too; a longer prompt makes a batch of its own.
    """
    p = np.empty(len(prompts), np.float64)
    was_training = llm.training
    llm.eval()
    with torch.inference_mode():
        for batch in packed(np.fromiter(map(len, prompts), np.int64, len(prompts)), max_batch_tokens):
            output = llm(collate([prompts[row] for row in batch], llm.layout).to(device), with_hidden=False)
            p[batch] = torch.sigmoid(output.logits_B.double()).cpu().numpy()
    llm.train(was_training)
    return p


def packed(lengths: NDArray[np.int64], max_batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut rows, longest first, into batches whose padded size stays within `max_batch_tokens`."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, max_batch_tokens // max(1, int(lengths[order[start]])))
        yield order[start : start + rows]
        start += rows
