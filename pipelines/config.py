"""The configuration of a run: every part's own Config, composed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from tyro.conf import Suppress, subcommand

from components.bounds import require_seed
from components.crm import CrmConfig, build
from components.datasets.amazon import Amazon
from components.datasets.collm import CollmMl1m
from components.datasets.demo import Demo
from components.datasets.movielens import MovieLens1m, MovieLens100k
from components.datasets.tabular import Tabular
from components.errors import ConfigError
from components.llm import config as llm_config
from components.llm import tiny_config
from components.llm.config import TINY
from components.tracking import Tracking
from components.types import CrmInputs, Slot
from pipelines import cluster, evaluate, prepare, prompts, score, train
from tune import search

Dataset = (
    Annotated[Demo.Config, subcommand("demo")]
    | Annotated[MovieLens100k.Config, subcommand("movielens-100k")]
    | Annotated[MovieLens1m.Config, subcommand("movielens-1m")]
    | Annotated[CollmMl1m.Config, subcommand("collm")]
    | Annotated[Amazon.Config, subcommand("amazon")]
    | Annotated[Tabular.Config, subcommand("tabular")]
)
SOME_INPUTS = CrmInputs((Slot("item_id", 0, 1, 1),), embedding_rows=2, numeric_names=(), history_length=1, item_slot=0)
READERS: dict[type, type] = {reader.Config: reader for reader in (Demo, MovieLens100k, MovieLens1m, CollmMl1m, Amazon, Tabular)}


@dataclass(frozen=True)
class RunConfig:
    """One run of the pipeline. A recipe is a function that returns one; the command line changes single keys of it."""

    recipe: Suppress[str]
    dataset: Dataset
    """The raw format, and its own settings."""
    data: str | None = None
    """Folder or URI of the raw files; the demo needs none."""
    output: str | None = None
    """Folder or URI that the run writes; default: runs/RECIPE."""
    seed: int = 1
    """Seed of the samples drawn for prompts and of training (the CRM's first weights, order, dropout). Not of what has its own:
    `dataset.seed` (demo), `tiny.seed`, `llm.seed`, `tune.seed`, `evaluate.seed`."""
    wait: bool = False
    """Wait for a run that uses the output folder, where this one would leave with exit code 75."""
    dry_run: bool = False
    """Print the plan (stages, what would be reused, DeepSpeed's JSON, resources) and stop."""
    prepare: prepare.Config = field(default_factory=prepare.Config)
    prompts: prompts.Config = field(default_factory=prompts.Config)
    crm: CrmConfig = field(default_factory=CrmConfig)
    llm: llm_config.Config = field(default_factory=llm_config.Config)
    tiny: tiny_config.Config = field(default_factory=tiny_config.Config)
    train: train.Config = field(default_factory=train.Config)
    score: score.Config = field(default_factory=score.Config)
    tune: search.Config = field(default_factory=search.Config)
    evaluate: evaluate.Config = field(default_factory=evaluate.Config)
    tracking: Tracking.Config = field(default_factory=Tracking.Config)
    cluster: cluster.Config = field(default_factory=cluster.Config)

    def __post_init__(self) -> None:
        parts = {"dataset": self.dataset, "tiny": self.tiny, "llm": self.llm, "tune": self.tune, "evaluate": self.evaluate}
        seeds = {f"{name}.seed": part.seed for name, part in parts.items() if hasattr(part, "seed")}
        require_seed({"seed": self.seed, **seeds})
        if self.train.use_gpu == "no":
            self.train.deepspeed.require_device(gpu=False)
        self._require_layers()
        self._require_prompts()

    def _require_layers(self) -> None:
        """Raise ConfigError for an alignment of layers that the models lack, as far as their shapes are known before there is data."""
        if not self.train.alignment.pairs:
            return
        crm = build(replace(self.crm, ignored=()), SOME_INPUTS)  # what it reads has nothing to do with how deep it is
        self.train.alignment.require_layers(self.tiny.layers if self.llm.path == TINY else None, len(crm.hidden_widths))

    def _require_prompts(self) -> None:
        """Raise ConfigError for stages of training that would find no prompts, and for prompts that the tiny model can't read."""
        if self.train.warmup.weights.llm:
            got = f"got {self.train.warmup.weights.llm:g}"
            raise ConfigError(
                f"train.warmup.weights.llm: expected 0, the warm-up's samples are no prompts; {got} (train.joint trains both)"
            )
        for name, stage in (("joint", self.train.joint), ("llm", self.train.llm)):
            if stage.epochs and not getattr(self.prompts, f"{name}_samples"):
                raise ConfigError(f"prompts.{name}_samples: expected 1 or more where train.{name}.epochs is {stage.epochs}, got 0")
        if self.llm.path == TINY and self.prompts.max_tokens > self.tiny.max_positions:
            raise ConfigError(
                f"prompts.max_tokens: expected at most {self.tiny.max_positions}, which the tiny model can read (--tiny.max-positions), "
                f"got {self.prompts.max_tokens}"
            )
