"""Prompts: samples -> token ids of the click-rating prompt (Ray Data)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import ray
from ray.data import Dataset, TaskPoolStrategy

from components import artifacts, storage
from components.bounds import require_at_least
from components.errors import DataError
from components.llm import config as llm_config
from components.llm.prompt_parts import Part, write_prompts
from pipelines.stage import StageContext
from pipelines.tasks import require_rows

if TYPE_CHECKING:
    from components.llm.prompt_tokens import PromptTokens

CPUS_PER_WORKER = 0.5


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
    # Here, not above: no worker needs what takes seconds to import.
    from components.features.tables import load_store
    from components.llm import backbone
    from components.llm.prompt_rows import PromptRows

    tables = context.artifact("tables")
    samples: dict[str, int] = artifacts.require(tables).facts["rows"]
    parts = drawn(samples, config)
    expected = sum(round((part.high - part.low) * samples[part.split]) for part in parts.values())
    rows = PromptRows(load_store(tables), backbone.load_encoder(llm, config.max_tokens), config.history_length)
    counts = dict.fromkeys(parts, 0)
    for row in _rendered(rows.tokens, context, parts, seed, config.actors).iter_rows():
        counts[row["part"]] += row["rows"]
        context.progress.update(min(sum(counts.values()), expected - 1), expected, "prompts")
    for name, count in counts.items():
        if parts[name].high > parts[name].low and not count:  # a hash decides about each sample: of a handful it may draw none
            split = parts[name].split
            raise DataError(f"prompts: expected some of the {samples[split]:,} samples of {split} for {name}, none was drawn; ask for more")
        require_rows(artifacts.join(context.folder, name), count)
    context.progress.say(", ".join(f"{name} {count:,}" for name, count in counts.items()) + " prompts written")
    context.facts.update(prompts=counts, work=(sum(counts.values()), "prompts"))


def drawn(rows: Mapping[str, int], config: Config) -> dict[str, Part]:
    """Return what each part of the artifact draws from which split; `rows` are the rows of the splits."""
    joint, alone = (min(1.0, samples / rows["train"]) for samples in (config.joint_samples, config.llm_samples))
    # Two samples of train that overlap only where both together ask for more rows than there are.
    apart = min(joint, 1.0 - alone)
    return {
        "joint": Part("train", 0.0, joint),
        "llm": Part("train", apart, apart + alone),
        "early_stopping": Part("valid", 0.0, min(1.0, config.early_stopping_samples / rows["valid"])),
        "valid": Part("valid", 0.0, 1.0),
        "test": Part("test", 0.0, 1.0),
    }


def _rendered(tokens: PromptTokens, context: StageContext, parts: Mapping[str, Part], seed: int, workers: int) -> Dataset:
    """Write the prompts of all parts, file by file of the samples, when the data set is read: the rows that each part has of a file."""
    tables, folder, shared = context.artifact("tables"), context.folder, ray.put(tokens)
    splits = sorted({part.split for part in parts.values()})
    files = [(split, artifacts.join(tables, split, name)) for split in splits for name in _files(artifacts.join(tables, split))]

    def render(batch: dict[str, np.ndarray]) -> dict[str, list[str] | list[int]]:
        rows = Counter(dict.fromkeys(parts, 0))
        for number in batch["item"].tolist():  # a task that is run again writes the same files again
            split, file = files[number]
            own = {name: part for name, part in parts.items() if part.split == split}
            rows.update(write_prompts(ray.get(shared), file, own, seed, folder, number))
        return {"part": list(rows), "rows": list(rows.values())}

    numbers = ray.data.from_items(list(range(len(files))), override_num_blocks=len(files))
    return numbers.map_batches(render, batch_size=1, num_cpus=CPUS_PER_WORKER, compute=TaskPoolStrategy(size=workers))  # pyright: ignore[reportArgumentType]


def _files(uri: str) -> list[str]:
    fs, folder = storage.filesystem(uri)
    return [name for name in storage.listing(fs, folder) if name.endswith(".parquet")]
