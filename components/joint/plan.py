"""The plan of a training run: CoReLLa's stages, their schedules, and where a run stands in them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Literal

from components.bounds import require_above, require_at_least
from components.errors import ConfigError
from components.joint.model import LossWeights

ModelName = Literal["crm", "llm"]


@dataclass(frozen=True)
class StageConfig:
    """One stage of training."""

    weights: LossWeights
    epochs: int
    """Passes over the stage's samples, at most; 0 skips the stage."""
    micro_batch: int
    """Samples that a worker takes through the model at once."""
    accumulation: int = 1
    """Micro-batches of each worker that make one optimizer step."""
    crm_learning_rate: float = 1e-3
    """Peak learning rate of the CRM and of the alignment projections."""
    llm_learning_rate: float = 1e-3
    """Peak learning rate of the LLM."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate goes from its peak towards 0 over the planned steps."""
    warmup_share: float = 0.05
    """Share of the planned steps in which the learning rate rises from 0."""
    patience: int = 2
    """Epochs without a better validation AUC after which the stage ends."""

    def __post_init__(self) -> None:
        require_at_least(0, {"epochs": self.epochs, "weight_decay": self.weight_decay})
        require_at_least(1, {"micro_batch": self.micro_batch, "accumulation": self.accumulation, "patience": self.patience})
        require_above(0, {"crm_learning_rate": self.crm_learning_rate, "llm_learning_rate": self.llm_learning_rate})
        if not 0 <= self.warmup_share < 1:
            raise ConfigError(f"warmup_share: expected a share in [0, 1), got {self.warmup_share}")


@dataclass(frozen=True)
class Stage:
    """A stage and its samples."""

    name: str
    config: StageConfig
    samples_uri: str

    @property
    def models(self) -> tuple[ModelName, ...]:
        named: tuple[tuple[ModelName, float], ...] = (("crm", self.config.weights.crm), ("llm", self.config.weights.llm))
        return tuple(name for name, weight in named if weight > 0)

    @property
    def leader(self) -> ModelName:
        """The model whose validation AUC decides when the stage ends."""
        return "llm" if "llm" in self.models else "crm"


@dataclass
class Best:
    """The best validation so far of one model, over all stages."""

    auc: float = -math.inf
    stage: str = ""
    epoch: int = 0


@dataclass
class Position:
    """Where a run stands: with the weights and the engine's state, all that a resumed run needs."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0  # optimizer steps of this stage
    stale: int = 0  # epochs since the leader last improved
    best: dict[str, Best] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Position:
        plain = json.loads(text)
        return Position(**{**plain, "best": {name: Best(**best) for name, best in plain["best"].items()}})


def learning_rate(config: StageConfig, step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step, counted from 0."""
    warmup = math.ceil(config.warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[config.schedule]
