"""What one core does in a second of each stage's own code, on the samples of a finished run: what docs/scale.md reckons with.

python benchmarks/rates.py [--run RUN_FOLDER] [--seconds S]

Work is counted in CPU seconds of this process, which computes with one thread: beside other programs the figures stay what they
are. Ray, disks and networks are not in them; `benchmarks/preparing.py` measures the first two stages as a whole.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch

from components import artifacts
from components.errors import TandemError
from components.features.tables import load_store
from components.joint.crm_files import load_crm, score_crm
from components.joint.data import Inputs, Window, token_arrays
from components.joint.engine import ParameterGroup, TorchEngine
from components.joint.model import JointModel, LossWeights
from components.llm import backbone, scorer, shared_prefix
from components.llm.prompt_rows import PromptRows
from components.llm.tokens import SharedPrompts
from serving.local import newest_run

SAMPLES, CRM_BATCH, LLM_BATCH, CANDIDATES = 8_192, 1_024, 16, 50


def per_second(work: Callable[[], int], least_s: float) -> float:
    """Call until some CPU seconds are spent, after one call that warms up; return units of work a second."""
    work()
    done, started_s = 0, time.process_time()
    while (spent_s := time.process_time() - started_s) < least_s:
        done += work()
    return done / spent_s


class Rates:
    """The parts of a run, each ready to work."""

    def __init__(self, run: str) -> None:
        ensemble = artifacts.join(run, "ensemble")
        asked = artifacts.read_json(artifacts.join(ensemble, "prompts.json"))
        self._llm_config = backbone.Config(path=artifacts.join(ensemble, "llm"), dtype="auto")
        self._store = load_store(ensemble)
        self._crm = load_crm(artifacts.join(ensemble, "crm"), self._store.inputs)
        encoder = backbone.load_encoder(self._llm_config, asked["max_tokens"])
        self._prompts, self._layout = PromptRows(self._store, encoder, asked["history_length"]), encoder.layout
        self._samples: pa.Table = pads.dataset(artifacts.join(run, "tables", "train")).head(SAMPLES)
        self._encoded = self._prompts.encode(self._samples.slice(0, 1_000))

    def write_prompts(self) -> int:
        return self._prompts.encode(self._samples.slice(0, 1_000)).num_rows

    def score_with_crm(self) -> int:
        return len(score_crm(self._crm, self._store, self._samples)["p_crm"])

    def train_crm(self) -> Callable[[], int]:
        """Return what trains on all samples once."""
        model = JointModel(self._crm.train(), None, None, LossWeights(crm=1.0))
        engine = TorchEngine(model, [ParameterGroup(list(self._crm.parameters()), 1e-4)], "cpu", 1.0, sparse_tables=False)
        window = Window(self._samples, Inputs(self._store, self._layout, crm=True, llm=False))

        def epoch() -> int:
            for start in range(0, self._samples.num_rows - CRM_BATCH + 1, CRM_BATCH):
                engine.step([window.batch(np.arange(start, start + CRM_BATCH))], 1.0)
            return self._samples.num_rows // CRM_BATCH * CRM_BATCH

        return epoch

    def train_llm(self, dtype: str) -> Callable[[], int]:
        """Return what trains on some prompts; work is tokens."""
        llm = backbone.load(self._llm_config)[0].to(getattr(torch, dtype))
        model, group = JointModel(None, llm, None, LossWeights(llm=1.0)), ParameterGroup(list(llm.parameters()), 1e-5)
        engine = TorchEngine(model, [group], "cpu", 1.0, sparse_tables=False)
        window = Window(self._encoded, Inputs(self._store, self._layout, crm=False, llm=True))
        tokens = np.array([len(each) for each in token_arrays(self._encoded)])
        rows = np.arange(4 * LLM_BATCH)

        def steps() -> int:
            for batch in window.micro_batches(rows, LLM_BATCH):
                engine.step([batch], 1.0)
            return int(tokens[rows].sum())

        return steps

    def score_with_llm(self, dtype: str) -> Callable[[], int]:
        """Return what scores prompts that share nothing."""
        llm, prompts = backbone.load(self._llm_config)[0].to(getattr(torch, dtype)), token_arrays(self._encoded)[:200]
        return lambda: len(scorer.score(llm, prompts))

    def score_candidates(self, dtype: str) -> Callable[[], int]:
        """Return what scores the candidates of one user, whose history is read once."""
        llm, prompts = backbone.load(self._llm_config)[0].to(getattr(torch, dtype)), token_arrays(self._encoded)
        start = self._encoded["prefix_length"].to_pylist()
        longest = int(np.argmax(start))
        tails = [prompt[begin:].astype(np.int32) for prompt, begin in zip(prompts, start, strict=True)]
        user = SharedPrompts(prompts[longest][: start[longest]].astype(np.int32), tuple(tails[:CANDIDATES]))
        return lambda: len(shared_prefix.score_shared(llm, [user])[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", help="a finished run's folder; default: the newest below runs/")
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU seconds for each figure")
    options = parser.parse_args()
    try:
        run = options.run or newest_run()
        rates = Rates(run)
    except TandemError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    works: dict[str, Callable[[], int]] = {
        "prompts written": rates.write_prompts,
        "CRM: samples scored": rates.score_with_crm,
        "CRM: samples trained on": rates.train_crm(),
    }
    for dtype in ("float32", "bfloat16"):
        works[f"LLM, {dtype}: tokens trained on"] = rates.train_llm(dtype)
        works[f"LLM, {dtype}: prompts scored, nothing shared"] = rates.score_with_llm(dtype)
        works[f"LLM, {dtype}: candidates scored, {CANDIDATES} a user"] = rates.score_candidates(dtype)
    found = {name: per_second(work, options.seconds) for name, work in works.items()}
    for name, rate in found.items():
        print(f"{name:50} {rate:12,.0f} a core second")
    print(json.dumps({"run": Path(run).name, **{name: round(rate, 1) for name, rate in found.items()}}))


if __name__ == "__main__":
    main()
