"""Fine-tuning the LLM: real tokens a second of ours, of transformers.Trainer and of a plain torch loop, on the same prompts.

python benchmarks/llm_training.py [--data FOLDER] [--precision bf16] [--rounds 3]

Every contender takes the same optimizer steps (the recipe's rows a step, its micro-batch, AdamW, clipping, the loss on the
answer alone) in processes of its own, which wait while another is measured. Padding is never counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

import click_prompts
import llm_training_contenders as contenders
import machine
import outcome
import pyarrow.parquet as pq
import torch
from llm_training_contenders import Case, Done

from components.joint.data import token_lists
from components.llm import tiny
from pipelines.config import RunConfig

SHAPE = tiny.Config(hidden_size=256, layers=4, heads=4, intermediate=768, vocabulary_size=4096)
ALONE, ZERO = "one process, 2 threads", "ZeRO-2 on 2 workers"
TRAINER, PLAIN = "transformers.Trainer", "plain torch loop"
GOALS = {TRAINER: 1.3, ALONE: 0.95}
ROWS = 2_048


@dataclass
class Contender:
    """One or more processes that train together, started once and asked for a few steps at a time."""

    name: str
    connections: list[Connection]
    processes: list[BaseProcess]
    turns: list[list[Done]] = field(default_factory=list)

    @staticmethod
    def start(name: str, work: Any, case: Case, workers: int, threads: int) -> Contender:
        context = multiprocessing.get_context("spawn")
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the processes when they start
        connections: list[Connection] = []
        processes: list[BaseProcess] = []
        for rank in range(workers):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=contenders.answer, args=(theirs, work, case, rank, workers, threads), daemon=True))
            processes[-1].start()
            connections.append(ours)
        return Contender(name, connections, processes)

    def run(self, steps: int) -> list[Done]:
        """Train for some steps."""
        for connection in self.connections:
            connection.send(steps)
        return [connection.recv() for connection in self.connections]

    def rate(self) -> float:
        """Return real tokens a second, the median of all turns."""
        return median(sum(each.tokens for each in turn) / max(each.seconds for each in turn) for turn in self.turns)

    def cpu_rate(self) -> float:
        """Return real tokens a CPU second: it hardly moves when others use the machine too."""
        return median(sum(each.tokens for each in turn) / sum(each.cpu_seconds for each in turn) for turn in self.turns)

    def stop(self) -> None:
        for connection in self.connections:
            connection.send(0)
        for process in self.processes:
            process.join()  # what is measured next has the machine for itself


def measure(case: Case, rounds: int, steps: int) -> dict[str, Contender]:
    """Let all take turns."""
    started = [
        Contender.start(ALONE, contenders.ours, case, 1, 2),
        Contender.start(ZERO, contenders.ours, case, 2, 1),
        Contender.start(TRAINER, contenders.trainer, case, 1, 2),
        Contender.start(PLAIN, contenders.plain, case, 1, 2),
    ]
    for each in started:
        each.run(2)  # warms up
    for _ in range(rounds):
        for each in started:
            each.turns.append(each.run(steps))
    for each in started:
        each.stop()
    return {each.name: each for each in started}


def flops_per_token(shape: tiny.Config, tokens: float) -> float:
    """Return what a token of training takes: 6 for each weight of the blocks, and causal attention in prompts of so many tokens."""
    weights = shape.layers * shape.hidden_size * (4 * shape.hidden_size + 3 * shape.intermediate)
    return 6.0 * weights + 6.0 * shape.layers * shape.hidden_size * tokens


def outcomes(recipe: RunConfig, folder: Path, precision: str, rounds: int, steps: int) -> list[outcome.Outcome]:
    prompts = pq.read_table(folder / "prompts")
    tokens = len(token_lists(prompts)[0])
    each = flops_per_token(SHAPE, tokens / prompts.num_rows)
    torch.set_num_threads(2)
    peak = machine.peak_flops(torch.bfloat16 if precision == "bf16" else torch.float32)
    case = Case(folder, precision, recipe.train.llm, recipe.train.workers, recipe.prompts.max_tokens)
    measured = measure(case, rounds, steps)
    rates = {name: each.rate() for name, each in measured.items()}
    subject = f"LLM fine-tuning, {precision}, {recipe.recipe}"
    used = ", ".join(f"{name} {rate * each / peak:.0%}" for name, rate in rates.items())
    cpu = ", ".join(f"{name} {contender.cpu_rate():,.0f}" for name, contender in measured.items())
    notes = f"MFU of {peak / 1e9:,.0f} GFLOP/s: {used}. Tokens a CPU second: {cpu}. {tokens / prompts.num_rows:.0f} tokens a prompt"
    alone, zero = rates.pop(ALONE), rates.pop(ZERO)
    return [
        outcome.Outcome(subject, "tokens/s", alone, rates, {TRAINER: GOALS[TRAINER]}, peak / each, notes),
        outcome.Outcome(f"{subject}, {ZERO}", "tokens/s", zero, {ALONE: alone}, {ALONE: GOALS[ALONE]}, peak / each),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default=click_prompts.FOLDER, help="MovieLens-100K's folder; where it is absent, the demo's data")
    parser.add_argument("--precision", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=3, help="times that all take turns")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a turn")
    options = parser.parse_args()
    recipe = click_prompts.recipe_of(options.data)
    with tempfile.TemporaryDirectory() as folder:
        click_prompts.make(recipe, options.data, Path(folder), SHAPE, ROWS)
        found = [outcomes(recipe, Path(folder), precision, options.rounds, options.steps) for precision in options.precision]
    outcome.show([each for both in found for each in both])


if __name__ == "__main__":
    main()
