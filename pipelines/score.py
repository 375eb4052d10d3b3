"""Score: both models on every validation and test sample -> the score table (Ray Data, an actor pool each)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from ray.data import ActorPoolStrategy

from components import artifacts
from components.bounds import require_above, require_at_least
from components.llm import config as llm_config
from components.memory import keep_freed_memory
from pipelines.board import Line, Reader
from pipelines.cluster import Asked, Need, map_tables, on_gpus, read_parts, write_parts
from pipelines.stage import StageContext

CPUS_PER_CRM_ACTOR = 0.25
KEPT = ["split", "user_id", "item_id", "timestamp_s", "label", "p_crm", "p_llm", "earlier_count", "item_popularity", "user_popularity"]


@dataclass(frozen=True)
class Config:
    """How the score table is computed."""

    OPERATIONAL: ClassVar = ("crm_actors", "llm_actors", "cpus_per_actor")

    crm_actors: int = 1
    """Actors that score with the CRM."""
    llm_actors: int = 2
    """Actors that score with the LLM."""
    cpus_per_actor: float = 0.5
    """CPUs of each LLM actor, which computes with as many threads, at least one."""
    gpus_per_actor: float = 1.0
    """GPUs of each LLM actor where GPUs are used."""
    use_gpu: Asked = "auto"
    """Score with the LLM on GPUs; auto: if the cluster has places for all LLM actors with them."""
    rows_per_block: int = 1024
    """Samples that an actor takes at once; what users' prompts share is read once."""
    max_batch_tokens: int = 4_096
    """Tokens of one LLM batch: a few thousand keep a CPU's caches, GPUs want many more."""

    def __post_init__(self) -> None:
        for name in ("crm_actors", "llm_actors", "rows_per_block", "max_batch_tokens"):
            require_at_least(1, {f"score.{name}": getattr(self, name)})
        require_above(0, {f"score.{name}": getattr(self, name) for name in ("cpus_per_actor", "gpus_per_actor")})


def run(context: StageContext, config: Config, llm: llm_config.Config) -> None:
    """Write the artifact `scores/`: the score table as Parquet files. `llm` is how the LLM was trained."""
    models, tables = context.artifact("checkpoints"), context.artifact("tables")
    prompts = artifacts.require(context.artifact("prompts")).facts["prompts"]
    total, done = prompts["valid"] + prompts["test"], Counter[str]()
    gpu = wants_gpu(config)
    context.progress.say(f"starting {config.crm_actors} + {config.llm_actors} scoring actors")

    def show(line: Line) -> None:
        done["rows"] += int(line["rows"])
        context.progress.update(done["rows"], total, "samples scored")

    with Reader(show) as reader:
        # Both splits go through the same pools: starting an actor with its model takes longer than scoring a small split.
        splits = [map_tables(read_parts(artifacts.join(context.artifact("prompts"), split)), _marked(split)) for split in ("valid", "test")]
        by_crm = (
            splits[0]
            .union(splits[1])
            .map_batches(
                CrmScorer,
                fn_constructor_args=(artifacts.join(models, "crm"), tables),
                batch_format="pyarrow",
                batch_size=config.rows_per_block,
                compute=ActorPoolStrategy(size=config.crm_actors),
                num_cpus=CPUS_PER_CRM_ACTOR,
            )
        )
        by_both = by_crm.map_batches(
            LlmScorer,
            fn_constructor_args=(_trained(artifacts.join(models, "llm"), llm, gpu), config, "cuda" if gpu else "cpu", reader.board),
            batch_format="pyarrow",
            batch_size=config.rows_per_block,
            compute=ActorPoolStrategy(size=config.llm_actors),
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor if gpu else 0,
        )
        write_parts(by_both, context.folder, total)
    context.facts["work"] = (total, "samples")


def wants_gpu(config: Config) -> bool:
    """Tell whether the LLM scores on GPUs: as configured, or if the cluster has places for all its actors with them."""
    return on_gpus(config.use_gpu, places(config, gpu=True))


def places(config: Config, gpu: bool) -> Need:
    """Return what the LLM's actors ask for."""
    return Need("LLM scoring actors", config.llm_actors, {"CPU": config.cpus_per_actor, **({"GPU": config.gpus_per_actor} if gpu else {})})


def _trained(uri: str, llm: llm_config.Config, gpu: bool) -> llm_config.Config:
    """Return how the trained model is loaded: with the attention that it was trained with, where the device has it."""
    return llm_config.Config(path=uri, dtype="auto", attention=llm.attention if gpu or llm.attention == "eager" else "sdpa")


def _marked(split: str) -> Callable[[pa.Table], pa.Table]:
    """Return what adds the name of the split to its samples."""
    return lambda samples: samples.append_column("split", pa.array([split] * samples.num_rows, pa.string()))


class CrmScorer:
    """A worker that adds the CRM's click probability and what routers know of a sample before any model is asked."""

    def __init__(self, crm: str, tables: str) -> None:
        # Here, not above: each worker takes seconds to import what only the other one needs.
        from components.features.tables import load_store
        from components.joint.crm_files import load_crm, score_crm

        keep_freed_memory()
        self._score, self._store = score_crm, load_store(tables)
        self._crm = load_crm(crm, self._store.inputs)

    def __call__(self, samples: pa.Table) -> pa.Table:
        for name, values in self._score(self._crm, self._store, samples).items():
            samples = samples.append_column(name, pa.array(values))
        return samples


class LlmScorer:
    """A worker that adds the LLM's click probability."""

    def __init__(self, llm: llm_config.Config, config: Config, device: str, board: Any) -> None:
        import torch

        from components.joint.data import token_arrays
        from components.llm import backbone
        from components.llm.by_prefix import score_prompts

        self._score, self._tokens = score_prompts, token_arrays
        torch.set_num_threads(max(1, int(config.cpus_per_actor)))
        self._llm = backbone.load(llm)[0].to(device)
        self._config, self._device, self._board = config, device, board

    def __call__(self, samples: pa.Table) -> pa.Table:
        lengths = samples["prefix_length"].to_pylist()
        p_llm = self._score(self._llm, self._tokens(samples), lengths, self._config.max_batch_tokens, self._device)
        self._board.pin.remote({"rows": float(len(p_llm))})
        return samples.append_column("p_llm", pa.array(p_llm)).select(KEPT)
