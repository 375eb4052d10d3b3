"""Text as token ids, without a tokenizer's special tokens. Imports neither torch nor transformers, for workers that start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from components.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenIds = NDArray[np.int32]
MEMO_SEGMENTS = 1 << 18  # distinct segments kept; the memo starts afresh beyond


class PlainText:
    """A tokenizer without its added tokens, so that `</s>` or `<|im_start|>` in a text are letters like any others."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ConfigError(f"expected a tokenizer with a tokenizer.json, got {type(tokenizer).__name__} at {tokenizer.name_or_path}")
        self._tokenizer = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._tokenizer.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._tokenizer.pre_tokenizer = backend.pre_tokenizer
        # Added tokens that are not special may be plain words of the model too, such as Gemma's line break.
        special = {row for row, token in backend.get_added_tokens_decoder().items() if token.special}
        self._reserved = frozenset({*tokenizer.all_special_ids, *special} - {special_id(tokenizer, "unk")})
        self._memo: dict[tuple[str, str], TokenIds] = {}

    def encode(self, text: str, after: str = "\n") -> list[int]:
        """Encode `text` as it reads after another text, without the space that some tokenizers put before a first word."""
        before, whole = (self._tokenizer.encode(part, add_special_tokens=False).ids for part in (after, after + text))
        ids = whole[len(before) :]
        if whole[: len(before)] != before:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        # Some models hold special tokens among their words (T5's `</s>`): those never come from text either.
        return [token for token in ids if token not in self._reserved]

    def shorten(self, text: str, max_tokens: int) -> str:
        """Cut a text at the start of the first token beyond `max_tokens`."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        while len(encoding.ids) > max_tokens:
            start = encoding.offsets[max_tokens][0]
            text = text[: min(start, len(text) - 1)].rstrip()
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return text

    def segment(self, text: str, after: str = "\n") -> TokenIds:
        """Encode a piece of a prompt as `encode` does, each distinct piece once."""
        ids = self._memo.get((text, after))
        if ids is None:
            if len(self._memo) >= MEMO_SEGMENTS:
                self._memo.clear()
            ids = self._memo[text, after] = np.array(self.encode(text, after), np.int32)
        return ids


def special_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """Return the id of the `pad`, `eos`, `mask` or `unk` token, None where the tokenizer has none."""
    found = getattr(tokenizer, f"{name}_token_id")
    return found if isinstance(found, int) else None
