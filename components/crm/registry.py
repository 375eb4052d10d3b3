"""The recommender models by name, and the keys that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from components.crm.dcnv2 import Dcnv2
from components.crm.din import Din
from components.crm.history import HistoryChoice
from components.crm.inputs import InputLayer
from components.crm.model import Crm
from components.errors import ConfigError
from components.types import CrmInputs

MODELS: dict[str, type[Dcnv2] | type[Din]] = {"dcnv2": Dcnv2, "din": Din}


@dataclass(frozen=True)
class CrmConfig:
    """Which conventional recommender model, and its shape."""

    model: Literal["dcnv2", "din"] = "dcnv2"
    """The model; only its own section below counts."""
    embedding_size: int = 16
    """Width of every embedding."""
    history: HistoryChoice = "rated"
    """Pooled history beside the model's own reading of it: none, the items' mean, or also their ratings and the fold-in."""
    dropout: float = 0.2
    """Share of the deep layers' outputs that training drops."""
    unknown_rate: float = 0.02
    """Probability that training reads an id as unknown, so that new ids have a trained vector."""
    user_unknown_rate: float = 0.5
    """The same for the user id; 1: the model never reads it."""
    dcnv2: Dcnv2.Config = field(default_factory=Dcnv2.Config)
    din: Din.Config = field(default_factory=Din.Config)

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ConfigError(f"crm.model: expected one of {', '.join(MODELS)}, got {self.model!r}")
        if self.embedding_size < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"crm: expected embedding_size >= 1 and dropout in [0, 1), got {self.embedding_size} and {self.dropout}")
        if not (0 <= self.unknown_rate <= 1 and 0 <= self.user_unknown_rate <= 1):
            raise ConfigError(f"crm: expected unknown rates in [0, 1], got {self.unknown_rate} and {self.user_unknown_rate}")


def build(config: CrmConfig, inputs: CrmInputs) -> Crm:
    """Make an untrained model for inputs of this shape."""
    layer = InputLayer(inputs, config.embedding_size, config.unknown_rate, config.user_unknown_rate, config.history)
    return MODELS[config.model](getattr(config, config.model), layer, config.dropout)
