"""Prompts: samples -> token ids of the click-rating prompt (Ray Data)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from components import artifacts
from components.bounds import require_at_least
from components.errors import DataError
from components.features.sampling import uniform_hash
from components.llm import config as llm_config
from pipelines.cluster import map_tables, read_parts, where, write_parts
from pipelines.stage import StageContext

CPUS_PER_ACTOR = 0.5


@dataclass(frozen=True)
class Config:
    """Which samples become prompts, and how long these may be."""

    OPERATIONAL: ClassVar = ("actors",)

    history_length: int = 15
    """Latest rated items that a prompt shows."""
    max_tokens: int = 512
    """Longest prompt; older history is dropped first."""
    joint_samples: int = 20_000
    """Training samples drawn for joint training (CoReLLa: 20,000 to 30,000)."""
    llm_samples: int = 20_000
    """Training samples drawn for training the LLM alone."""
    early_stopping_samples: int = 2_000
    """Validation samples that the LLM is validated on while it trains."""
    actors: int = 2
    """Workers that render prompts."""

    def __post_init__(self) -> None:
        least = {"history_length": 0, "joint_samples": 0, "llm_samples": 0, "early_stopping_samples": 1, "actors": 1, "max_tokens": 32}
        for name, bound in least.items():
            require_at_least(bound, {f"prompts.{name}": getattr(self, name)})


def run(context: StageContext, config: Config, llm: llm_config.Config, seed: int) -> None:
    """Write the artifact `prompts/`: samples with tokens for each training stage, early stopping, valid and test."""
    tables = context.artifact("tables")
    rows: dict[str, int] = artifacts.require(tables).facts["rows"]
    joint, alone = (min(1.0, samples / rows["train"]) for samples in (config.joint_samples, config.llm_samples))
    early = min(1.0, config.early_stopping_samples / rows["valid"])
    # Two samples of train that overlap only where both together ask for more rows than there are.
    parts = {
        "joint": ("train", 0.0, joint),
        "llm": ("train", min(joint, 1.0 - alone), min(joint, 1.0 - alone) + alone),
        "early_stopping": ("valid", 0.0, early),
        "valid": ("valid", 0.0, 1.0),
        "test": ("test", 0.0, 1.0),
    }
    drawn = [_draw(read_parts(artifacts.join(tables, split)), seed, low, high, name) for name, (split, low, high) in parts.items()]
    # One pool renders all parts: starting a worker with its tokenizer takes longer than rendering a small part.
    prompts = (
        drawn[0]
        .union(*drawn[1:])
        .map_batches(
            Render,
            fn_constructor_args=(tables, llm, config),
            batch_format="pyarrow",
            batch_size=4096,
            compute=ActorPoolStrategy(size=config.actors),
            num_cpus=CPUS_PER_ACTOR,
        )
    )
    rendered = prompts.materialize()
    counts: dict[str, int] = {}
    for name, (split, low, high) in parts.items():
        part = where(rendered, "part", "==", name)
        counts[name] = part.count()
        if high > low and not counts[name]:  # a hash decides about each sample: of a handful it may draw none
            raise DataError(f"prompts: expected some of the {rows[split]:,} samples of {split} for {name}, none was drawn; ask for more")
        write_parts(part.drop_columns(["part"]), artifacts.join(context.folder, name), counts[name])
    context.progress.say(", ".join(f"{name} {count:,}" for name, count in counts.items()) + " prompts written")
    context.facts.update(prompts=counts, work=(sum(counts.values()), "prompts"))


class Render:
    """A worker that turns samples into tokens."""

    def __init__(self, tables: str, llm: llm_config.Config, config: Config) -> None:
        # Here, not above: only these workers need what takes seconds to import.
        from components.features.tables import load_store
        from components.llm import backbone
        from components.llm.prompt_rows import PromptRows

        self._rows = PromptRows(load_store(tables), backbone.load_encoder(llm, config.max_tokens), config.history_length)

    def __call__(self, samples: pa.Table) -> pa.Table:
        return self._rows.encode(samples)


def _draw(samples: Dataset, seed: int, low: float, high: float, name: str) -> Dataset:
    """Mark as `part` the samples whose hash, uniform in [0, 1), is in [low, high): the same ones in every run, in any order of the rows."""

    def keep(table: pa.Table) -> pa.Table:
        place = uniform_hash(seed, *(table[name].to_numpy() for name in ("user_row", "item_row", "timestamp_s")))
        drawn = table.filter(pa.array((place >= low) & (place < high)))
        return drawn.append_column("part", pa.array([name] * drawn.num_rows, pa.string()))

    return map_tables(samples, keep)
