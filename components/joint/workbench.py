"""What a worker builds models and engines from: prepared tables, prompts and the configuration of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from components.artifacts import join
from components.crm import Crm, CrmConfig
from components.crm import build as build_crm
from components.features.tables import load_store
from components.joint import alignment, deepspeed_engine
from components.joint.alignment import Alignment
from components.joint.deepspeed_engine import DeepSpeedEngine
from components.joint.engine import Engine, ParameterGroup, TorchEngine
from components.joint.model import JointModel
from components.joint.plan import ModelName, Stage
from components.joint.training import Surroundings, Training
from components.llm import backbone
from components.llm.answer import ClickLlm


@dataclass(frozen=True)
class Parts:
    """What is trained, from what, and how."""

    crm: CrmConfig
    llm: backbone.Config  # where the LLM starts from
    deepspeed: deepspeed_engine.Config
    alignment: alignment.Config
    tables: str
    prompts: str
    max_tokens: int
    seed: int
    sparse_tables: bool


class Workbench:
    """Builds models as they are before training, the same on every worker, and the engines that train them."""

    def __init__(self, parts: Parts, device: str) -> None:
        self._parts, self._device = parts, device
        store = load_store(parts.tables)
        self.store = store if parts.crm.reads_history else store.without_history()
        self.layout = backbone.load_encoder(parts.llm, parts.max_tokens).layout

    def training(self, stages: list[Stage], around: Surroundings) -> Training:
        """Return the run of these stages; raises ConfigError where a later one could not begin."""
        if self._parts.alignment.pairs and any(stage.config.weights.alignment for stage in stages):
            layers = len(build_crm(self._parts.crm, self.store.inputs).hidden_widths)
            self._parts.alignment.require_layers(backbone.blocks(self._parts.llm), layers)
        if any("llm" in stage.models for stage in stages):
            backbone.require_adaptable(self._parts.llm)
        valid: dict[ModelName, str] = {"crm": join(self._parts.tables, "valid"), "llm": join(self._parts.prompts, "early_stopping")}
        return Training(stages, self.build, self.engine, self.store, self.layout, valid, self._parts.seed, around)

    def build(self, name: ModelName) -> nn.Module:
        """Build a model as it is before training."""
        torch.manual_seed(self._parts.seed)
        return build_crm(self._parts.crm, self.store.inputs) if name == "crm" else backbone.load(self._parts.llm)[0]

    def engine(self, stage: Stage, models: Mapping[ModelName, nn.Module]) -> Engine:
        """Wrap the models of a stage in the engine that trains them: ZeRO wherever there is an LLM."""
        config, settings = stage.config, self._parts.deepspeed
        crm, llm = cast(Crm | None, models.get("crm")), cast(ClickLlm | None, models.get("llm"))
        torch.manual_seed(self._parts.seed)
        between = None
        if crm is not None and llm is not None and config.weights.alignment:
            between = Alignment(self._parts.alignment, llm.hidden_size, llm.blocks, crm.hidden_widths)
        model = JointModel(crm, llm, between, config.weights)
        rates = [(crm, config.crm_learning_rate), (llm, config.llm_learning_rate), (between, config.crm_learning_rate)]
        groups = [ParameterGroup(_trained(part), rate, config.weight_decay) for part, rate in rates if part is not None]
        if llm is None:
            return TorchEngine(model, groups, self._device, settings.gradient_clipping, self._parts.sparse_tables)
        return DeepSpeedEngine(model, groups, self._device, settings, config.micro_batch, config.accumulation)


def _trained(part: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in part.parameters() if parameter.requires_grad]
