"""The recommender models by name, and the keys that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from components.crm.dcnv2 import Dcnv2
from components.crm.din import Din
from components.crm.inputs import InputLayer
from components.crm.model import Crm
from components.errors import ConfigError
from components.types import CrmInputs

MODELS: dict[str, type[Dcnv2] | type[Din]] = {"dcnv2": Dcnv2, "din": Din}


@dataclass(frozen=True)
class CrmConfig(InputLayer.Config):
    """Which conventional recommender model, and its shape."""

    model: Literal["dcnv2", "din"] = "dcnv2"
    """The model; of the sections below only its own counts."""
    dropout: float = 0.2
    """Share of the deep layers' outputs that training drops."""
    dcnv2: Dcnv2.Config = field(default_factory=Dcnv2.Config)
    din: Din.Config = field(default_factory=Din.Config)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model not in MODELS:
            raise ConfigError(f"crm.model: expected one of {', '.join(MODELS)}, got {self.model!r}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"crm.dropout: expected a share in [0, 1), got {self.dropout}")

    @property
    def reads_items(self) -> bool:
        return self.model == "din" or super().reads_items


def build(config: CrmConfig, inputs: CrmInputs) -> Crm:
    """Make an untrained model for inputs of this shape; raises ConfigError where the two don't fit."""
    return MODELS[config.model](getattr(config, config.model), InputLayer(config, inputs), config.dropout)
