"""The shape of the tiny language model."""

from __future__ import annotations

from dataclasses import dataclass

from components.bounds import require_at_least
from components.errors import ConfigError

SMALLEST_VOCABULARY = 300  # 256 bytes, the special tokens and the answer words


@dataclass(frozen=True)
class Config:
    """Shape of the tiny Llama."""

    hidden_size: int = 128
    """Width of the hidden states."""
    layers: int = 3
    """Transformer blocks."""
    heads: int = 4
    """Attention heads of a block."""
    intermediate: int = 384
    """Width inside a block's MLP."""
    vocabulary_size: int = 2048
    """Tokens, bytes and special ones included."""
    max_positions: int = 1024
    """The longest prompt."""
    seed: int = 0
    """Of the initial weights."""
    tied: bool = True
    """Share the weights of input embeddings and vocabulary head."""

    def __post_init__(self) -> None:
        require_at_least(1, {f"tiny.{name}": getattr(self, name) for name in ("layers", "heads", "intermediate", "max_positions")})
        if self.hidden_size < 1 or self.hidden_size % (2 * self.heads):
            raise ConfigError(f"tiny.hidden_size: expected a multiple of twice the heads ({2 * self.heads}), got {self.hidden_size}")
        if self.vocabulary_size < SMALLEST_VOCABULARY:
            raise ConfigError(f"tiny.vocabulary_size: expected at least {SMALLEST_VOCABULARY}, got {self.vocabulary_size}")
