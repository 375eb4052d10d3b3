"""An LLM of a billion weights on one GPU: candidates scored and tokens trained on a second, and the share of the GPU's peak.

python benchmarks/gpu.py [--data FOLDER] [--rounds 3]

The model is a random Llama that reads the project's own prompts; everybody works in bfloat16, on the same rows, in processes of
their own. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click_prompts
import llm_training_contenders as contenders
import machine
import numpy as np
import outcome
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from llm_training import Contender, flops_per_token
from llm_training_contenders import Case

from components.joint.data import token_arrays
from components.llm import backbone, scorer, tiny
from components.llm.shared_prefix import score_shared
from components.llm.tokens import SharedPrompts
from pipelines.config import RunConfig

SHAPE = tiny.Config(hidden_size=2_048, layers=16, heads=32, intermediate=8_192, vocabulary_size=4_096)  # 1.07 billion in the blocks
SMALL = tiny.Config(hidden_size=64, layers=2, heads=2, intermediate=192, vocabulary_size=4_096)  # to try this script without a GPU
MICRO_BATCH, ROWS = 32, 4_096
USERS, CANDIDATES = 32, 50
TOKENS_AT_ONCE = 65_536
SCORED, TRAINED = "LLM scoring, 1B, one GPU, 50 candidates a user", "LLM fine-tuning, 1B, one GPU, ZeRO-2"


@dataclass(frozen=True)
class Scoring:
    """The same candidates, with their users' prefixes shared or as whole prompts."""

    case: Case

    def rates(self, rounds: int) -> dict[str, float]:
        """Return candidates a second (runs in a process of its own, which leaves the GPU's memory when it ends)."""
        llm = backbone.load(backbone.Config(path=self.case.llm, dtype="bfloat16"))[0].to(self.case.device)
        users = _users(self.case.samples)
        whole = [np.concatenate([user.prefix, suffix]) for user in users for suffix in user.suffixes]
        works: dict[str, Callable[[], Any]] = {
            "ours": lambda: score_shared(llm, users, TOKENS_AT_ONCE, self.case.device),
            "whole prompts": lambda: scorer.score(llm, whole, TOKENS_AT_ONCE, self.case.device),
        }
        for work in works.values():
            work()  # warms up
        return outcome.alternate({name: lambda work=work: len(whole) / self._seconds(work) for name, work in works.items()}, rounds)

    def _seconds(self, work: Callable[[], Any]) -> float:
        started_s = self.case.clock()[0]
        work()
        return self.case.clock()[0] - started_s


def _users(samples: pa.Table) -> list[SharedPrompts]:
    """Return users with the candidates of others: a prefix each, and the same tails for all."""
    prompts, starts = token_arrays(samples), samples["prefix_length"].to_pylist()
    tails = tuple(prompts[row][starts[row] :].astype(np.int32) for row in range(CANDIDATES))
    return [SharedPrompts(prompts[row][: starts[row]].astype(np.int32), tails) for row in range(USERS)]


def scored(case: Case, each: float, peak: float, rounds: int) -> outcome.Outcome:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        rates = process.apply(Scoring(case).rates, (rounds,))
    users = _users(case.samples)
    tokens = sum(len(user.prefix) + sum(map(len, user.suffixes)) for user in users) / (USERS * CANDIDATES)
    floor = peak / (each / 3 * tokens)  # the forward is a third of training
    notes = f"MFU {rates['ours'] / floor:.0%} of {peak / 1e12:,.0f} TFLOP/s; {tokens:.1f} tokens a candidate, its share of the prefix too"
    return outcome.Outcome(SCORED, "candidates/s", rates["ours"], {"whole prompts, sorted": rates["whole prompts"]}, {}, floor, notes)


def trained(case: Case, each: float, peak: float, rounds: int, steps: int) -> outcome.Outcome:
    """Measure one contender after the other: together they would not fit smaller GPUs."""
    rates: dict[str, float] = {}
    works = {"ZeRO-2": contenders.ours, "ZeRO-3": contenders.ours, "transformers.Trainer": contenders.trainer, "plain": contenders.plain}
    for name, work in works.items():
        running = Contender.start(name, work, replace(case, zero_stage=3 if name == "ZeRO-3" else 2), 1, 8)
        running.run(2)  # warms up
        running.turns += [running.run(steps) for _ in range(rounds)]
        rates[name] = running.rate()
        running.stop()
    ours, zero_3 = rates.pop("ZeRO-2"), rates.pop("ZeRO-3")
    notes = f"MFU {ours * each / peak:.0%} of {peak / 1e12:,.0f} TFLOP/s, ZeRO-3 {zero_3:,.0f} tokens/s"
    return outcome.Outcome(TRAINED, "tokens/s", ours, rates, {"transformers.Trainer": 1.3}, peak / each, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default=click_prompts.FOLDER, help="MovieLens-100K's folder; where it is absent, the demo's data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of a turn")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a tiny model, to try the script itself")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        nothing = {"transformers.Trainer": outcome.NOT_RUN}
        outcome.show([outcome.Outcome(name, "1/s", outcome.NOT_RUN, nothing, {}, notes="no GPU here") for name in (SCORED, TRAINED)])
        return
    recipe = click_prompts.recipe_of(options.data)
    with tempfile.TemporaryDirectory() as folder:
        outcome.show(_measured(recipe, options, Path(folder)))


def _measured(recipe: RunConfig, options: argparse.Namespace, folder: Path) -> list[outcome.Outcome]:
    shape, rows = (SHAPE, ROWS) if options.device == "cuda" else (SMALL, 256)
    started_s = time.perf_counter()
    prompts = click_prompts.make(recipe, options.data, folder, shape, rows)
    print(f"a random Llama and {prompts.num_rows} prompts made in {time.perf_counter() - started_s:.0f} s")
    stage = replace(recipe.train.llm, micro_batch=MICRO_BATCH if options.device == "cuda" else 4)
    case = Case(folder, "bf16", stage, 1, recipe.prompts.max_tokens, options.device)
    tokens = sum(map(len, token_arrays(pq.read_table(folder / "prompts"))))
    each = flops_per_token(shape, tokens / prompts.num_rows)
    peak = machine.peak_flops(torch.bfloat16, options.device)
    torch.cuda.empty_cache()
    return [scored(case, each, peak, options.rounds), trained(case, each, peak, options.rounds, options.steps)]


if __name__ == "__main__":
    main()
