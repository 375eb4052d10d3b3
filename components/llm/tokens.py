"""Prompts as token ids: segments encoded apart, text that can never become a special token, a budget that keeps the question.

A prompt is cut at its line breaks, so encoding each line once and joining the results gives what encoding the whole text
would, and the lines of popular items cost one dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from components.errors import ConfigError
from components.llm.plain_text import PlainText, TokenIds, special_id
from components.prompts import click
from components.types import Prompt, TokenBatch


@dataclass(frozen=True)
class TokenLayout:
    """What surrounds the text of a prompt, and where the answer is read."""

    opening: tuple[int, ...]  # BOS or [CLS], where the model wants one
    closing: tuple[int, ...]  # what follows the text: for a masked model the blank to fill and [SEP]
    after_answer: int  # tokens after the answer position: 0 for a causal model, those after the blank for a masked one
    answer_ids: tuple[int, int]  # no, yes
    pad_id: int
    masked: bool = False  # the answer fills a blank (BERT) instead of continuing the text (GPT)


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt within its budget."""

    token_ids: TokenIds
    prefix_length: int  # tokens of opening, head and history: the same for all candidates of a user
    kept_history: int  # history lines kept, the latest ones


@dataclass(frozen=True)
class SharedPrompts:
    """The prompts of one user's candidates within one budget; each is the prefix and one of the suffixes."""

    prefix: TokenIds  # opening, head and history
    suffixes: tuple[TokenIds, ...]  # tail and closing, one a candidate


@dataclass
class PromptEncoder:
    """Encodes prompts for one model; picklable."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    masked: bool = False
    tail_tokens: int = 0  # kept free for the tail, so that all candidates of a user keep the same history
    answers: tuple[str, str] = click.ANSWERS
    layout: TokenLayout = field(init=False)
    text: PlainText = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.text = PlainText(self.tokenizer)
        self.layout = token_layout(self.tokenizer, self.text, self.masked, self.answers)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Encode a prompt; over budget, whole history lines go, the oldest first.

        Raises ConfigError when head and tail alone exceed `max_tokens`; `shorten` texts beforehand to rule that out.
        """
        tail = self.text.segment(prompt.tail)
        prefix, kept_history = self._prefix(prompt, len(tail))
        return EncodedPrompt(np.concatenate([prefix, self._suffix(tail)]), len(prefix), kept_history)

    def encode_shared(self, prompt: Prompt, tails: Sequence[str]) -> SharedPrompts:
        """Encode the head and history of a prompt once, and the tails of its candidates instead of its own.

        The longest tail decides how much history there is room for. Where none exceeds `tail_tokens`, prefix and suffixes are
        what `encode` gives for each candidate. Raises ConfigError as `encode` does.
        """
        segments = [self.text.segment(tail) for tail in tails]
        prefix, _ = self._prefix(prompt, max(map(len, segments), default=0))
        return SharedPrompts(prefix, tuple(self._suffix(tail) for tail in segments))

    def _prefix(self, prompt: Prompt, tail_tokens: int) -> tuple[TokenIds, int]:
        """Return opening, head and the latest history lines that fit beside a tail of this length, and how many lines fit."""
        head = self.text.segment(prompt.head, after="")
        fixed = len(self.layout.opening) + len(head) + max(tail_tokens, self.tail_tokens) + len(self.layout.closing)
        if fixed > self.max_tokens:
            raise ConfigError(f"prompts.max_tokens: expected at least {fixed} for a prompt's profile and question, got {self.max_tokens}")
        history: list[TokenIds] = []
        room = self.max_tokens - fixed
        for line in map(self.text.segment, reversed(prompt.history)):
            room -= len(line)
            if room < 0:
                break
            history.append(line)
        return np.concatenate([np.array(self.layout.opening, np.int32), head, *reversed(history)]), len(history)

    def _suffix(self, tail: TokenIds) -> TokenIds:
        return np.concatenate([tail, np.array(self.layout.closing, np.int32)])

    def shorten(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Cut each text to at most `max_tokens` tokens: bounds head and tail once per user and item, not per prompt."""
        return [self.text.shorten(text, max_tokens) for text in texts]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text takes."""
        return [len(self.text.encode(text)) for text in texts]


def token_layout(tokenizer: PreTrainedTokenizerBase, text: PlainText, masked: bool, answers: tuple[str, str]) -> TokenLayout:
    """Find out how a tokenizer opens and closes a text, and which tokens answer; raise ConfigError when none can."""
    opening, closing = _surroundings(tokenizer)
    answer_ids = [text.encode(answer, after="\nAnswer:") for answer in answers]
    shared = _common_start(*answer_ids)
    no, yes = (ids[len(shared) :] for ids in answer_ids)
    if not no or not yes:
        found = dict(zip(answers, answer_ids, strict=True))
        raise ConfigError(f"{tokenizer.name_or_path}: expected answers that begin with different tokens, got {found}")
    pad = next(token for token in (special_id(tokenizer, "pad"), special_id(tokenizer, "eos"), 0) if token is not None)
    mask = special_id(tokenizer, "mask")
    after_answer = 0
    if masked and mask is None:
        raise ConfigError(f"{tokenizer.name_or_path}: expected a mask token for a masked model, got none")
    if masked and mask is not None:
        shared, after_answer = [*shared, mask, *closing], len(closing)
    return TokenLayout(opening, tuple(shared), after_answer, (no[0], yes[0]), pad, masked)


def _common_start(first: list[int], second: list[int]) -> list[int]:
    different = (at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return first[: next(different, min(len(first), len(second)))]


def _surroundings(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    dressed = tokenizer("a")["input_ids"]
    start = next(start for start in range(len(dressed)) if dressed[start : start + len(plain)] == plain)
    return tuple(dressed[:start]), tuple(dressed[start + len(plain) :])


def collate(prompts: Sequence[NDArray[np.integer]], layout: TokenLayout) -> TokenBatch:
    """Stack token ids into one right-padded batch."""
    lengths = np.fromiter(map(len, prompts), np.int64, len(prompts))
    mask_BT = np.arange(lengths.max()) < lengths[:, None]
    token_ids_BT = np.full(mask_BT.shape, layout.pad_id, np.int64)
    token_ids_BT[mask_BT] = np.concatenate(prompts)
    answer_B = lengths - 1 - layout.after_answer
    return TokenBatch(torch.from_numpy(token_ids_BT), torch.from_numpy(mask_BT.astype(np.int64)), torch.from_numpy(answer_B))
