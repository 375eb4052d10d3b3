"""What running `ml-100k` as a pipeline takes beyond its stages' own compute: starting processes, Ray, moving and hashing files.

python benchmarks/pipeline_overhead.py --data FOLDER [--output FOLDER]     runs the pipeline, and takes its whole time from start to end
python benchmarks/pipeline_overhead.py --data FOLDER --run RUN_FOLDER      takes a finished run, and the times of its stages alone

Own compute is what the same work takes on the same cores if they share it without any loss:
- tables, prompts, scores: CPU seconds of the functions that their tasks call, one after the other in this process with one thread, on
  the run's own artifacts (`own_work.py`), divided by the number of cores;
- checkpoints: seconds that the first training worker spent in the training loop, validation and DeepSpeed included, from when its
  process was ready (the artifact's fact `own_seconds`); not starting workers, and not bringing checkpoints and models to the artifact;
- policy: CPU seconds of scoring the search's own policies one after the other, without Ray Tune, and of all that follows from them;
- backbone, ensemble, report: work on the driver without Ray, so all of their time.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import own_work
import pandas as pd
import torch
from outcome import Outcome, show

from components import artifacts
from components.errors import ArtifactError
from components.features.tables import load_store, read_frame, read_samples, read_scores
from components.joint.crm_files import load_crm, score_crm
from components.joint.data import token_arrays
from components.llm import backbone, scorer
from components.llm.prompt_rows import PromptRows
from components.routing.fit import Spec, fit_policy
from pipelines.config import READERS
from pipelines.policy import SHARES
from pipelines.recipes import ml_100k
from tune import search
from tune.choice import Candidate, best, crm_alone, honest_gain, sweep
from tune.objective import evaluate, prepare

STAGES = ("tables", "backbone", "prompts", "checkpoints", "scores", "policy", "ensemble", "report")
GOAL = 0.15
LIMIT_S = 3_600


class Run:
    """A finished run of `ml-100k`, and what its stages' own code takes."""

    def __init__(self, folder: str, data: str) -> None:
        self._folder, self._data, self._config = Path(folder), data, ml_100k()
        self.manifests = {stage: artifacts.require(str(self._folder / stage)) for stage in STAGES}

    def own_s(self) -> dict[str, float]:
        """Return the seconds of own compute of every stage."""
        cores = os.cpu_count() or 1
        training = self.manifests["checkpoints"].facts.get("own_seconds")
        if training is None:
            raise ArtifactError(f"{self._folder}/checkpoints: expected the fact own_seconds, which runs of this version have")
        alone = {stage: self.manifests[stage].seconds for stage in ("backbone", "ensemble", "report")}
        shared: dict[str, Callable[[], object]] = {"prompts": self._prompts, "scores": self._scores}
        with tempfile.TemporaryDirectory() as folder:
            tables = READERS[type(self._config.dataset)](self._config.dataset).read(self._data)
            found = {"tables": own_work.prepared(tables, self._config.prepare, Path(folder)) / cores}
        found |= {stage: _cpu_s(work) / cores for stage, work in shared.items()}
        return {**found, **alone, "checkpoints": float(training), "policy": _cpu_s(self._policy)}

    def _prompts(self) -> None:
        config = self._config.prompts
        encoder = backbone.load_encoder(backbone.Config(path=str(self._folder / "backbone")), config.max_tokens)
        rows = PromptRows(load_store(str(self._folder / "tables")), encoder, config.history_length)
        with tempfile.TemporaryDirectory() as folder:
            own_work.prompted(rows.tokens, config, self._config.seed, self._folder / "tables", Path(folder))

    def _scores(self) -> None:
        store = load_store(str(self._folder / "tables"))
        crm = load_crm(str(self._folder / "checkpoints" / "crm"), store.inputs)
        llm = backbone.load(backbone.Config(path=str(self._folder / "checkpoints" / "llm"), dtype="auto"))[0]
        for split in ("valid", "test"):
            samples = read_samples(str(self._folder / "prompts" / split))
            step = self._config.score.rows_per_block
            for block in (samples.slice(start, step) for start in range(0, samples.num_rows, step)):
                score_crm(crm, store, block)
                scorer.score(llm, token_arrays(block), self._config.score.max_batch_tokens)

    def _policy(self) -> None:
        config, valid = self._config.tune, read_scores(str(self._folder / "scores"), "valid")
        trials = read_frame(str(self._folder / "policy" / "trials.parquet"))
        data = prepare(valid, config.folds, search._calibrations(config))
        tried = [Candidate(spec, evaluate(data, spec)) for spec in _specs(trials)[: config.trials]]
        candidates = [crm_alone(data), *tried, *sweep(data, tried, config.max_llm_share)]
        honest_gain(data, candidates, config.draws, config.seed)
        spec = best(candidates).spec
        assert spec is not None, "the policy is fitted on all rows"
        fit_policy(valid, spec, max_llm_share=config.max_llm_share)
        search.at_shares(valid, candidates, SHARES, config)


def _specs(trials: pd.DataFrame) -> list[Spec]:
    """Return the policies that the search tried, the CRM alone left out."""
    asked = trials.loc[trials["router"] != "never"].drop(columns="share").rename(columns={"target_share": "share"})
    return [Spec(**row) for row in asked[[field.name for field in dataclasses.fields(Spec)]].to_dict("records")]


def _cpu_s(work: Callable[[], object]) -> float:
    started_s = time.process_time()
    work()
    return time.process_time() - started_s


def run_pipeline(data: str, output: str) -> float:
    """Run the recipe as a user does; return the seconds from start to end."""
    command = [sys.executable, "pipelines/full.py", "ml-100k", "--data", data, "--output", output]
    started_s = time.monotonic()
    subprocess.run(command, check=True, timeout=LIMIT_S, stdout=sys.stderr)
    return time.monotonic() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder of MovieLens-100K")
    parser.add_argument("--run", help="a finished run's folder, instead of running the pipeline")
    parser.add_argument("--output", default="runs/ml-100k-bench", help="where the pipeline runs, anew")
    options = parser.parse_args()
    wall_s = None if options.run else run_pipeline(options.data, options.output)
    torch.set_num_threads(1)
    run = Run(options.run or options.output, options.data)
    own = run.own_s()
    stages = {stage: manifest.seconds for stage, manifest in run.manifests.items()}
    for stage in STAGES:
        print(f"{stage:12} {stages[stage]:8.1f} s, own compute {own[stage]:8.1f} s")
    total_s, own_s = wall_s or sum(stages.values()), sum(own.values())
    print(f"{'whole run' if wall_s else 'all stages':12} {total_s:8.1f} s, own compute {own_s:8.1f} s: {total_s / own_s - 1:.1%} beyond it")
    goal = f"goal: less than {GOAL:.0%} beyond own compute; here {total_s / own_s - 1:.1%}"
    whole = "whole run, from start to end" if wall_s else "sum of its stages"
    show([Outcome(f"pipeline ml-100k, {whole}", "runs/h", 3_600 / total_s, {}, {}, 3_600 / own_s, goal)])


if __name__ == "__main__":
    main()
