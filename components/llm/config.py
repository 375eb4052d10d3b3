"""Which language model answers: its configuration apart from the libraries that load it, which take seconds to import."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from components.bounds import require_at_least
from components.errors import ConfigError

TINY = "tiny"
BASE_FILE = "base.json"  # beside an adapter: the model it adapts
COMMIT = r"[0-9a-f]{40}"


@dataclass(frozen=True)
class Config:
    """Which language model answers, and what of it is trained."""

    path: str = TINY
    """A hub id, a folder (local or any URI), or `tiny`: a small model made from the data, trained from scratch."""
    revision: str = ""
    """The commit (40 hex digits) of a hub id; a branch or tag could change under you."""
    finetune: Literal["full", "lora"] = "full"
    """Train all weights, or low-rank adapters on a frozen model."""
    lora_rank: int = 8
    """Width of the adapters."""
    lora_alpha: int = 16
    """Adapters are scaled by alpha / rank."""
    lora_dropout: float = 0.05
    """Dropout before the adapters."""
    lora_targets: tuple[str, ...] = ()
    """Names of the adapted modules; empty: the attention projections that peft knows for the architecture."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Precision of the weights; auto: that of the files."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Implementation of attention."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    seed: int = 0
    """Of weights that no file holds: new adapters, a head that an encoder lacks."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("llm.path: expected a hub id, a local folder or 'tiny', got nothing")
        if self.revision and not re.fullmatch(COMMIT, self.revision):
            raise ConfigError(f"llm.revision: expected a commit of 40 hex digits, got {self.revision!r}")
        require_at_least(1, {"llm.lora_rank": self.lora_rank, "llm.lora_alpha": self.lora_alpha})
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ConfigError(f"llm.lora_dropout: expected 0 to below 1, got {self.lora_dropout}")
