"""Prepare and prompts on generated rows against a vectorised pandas script, and how time and memory grow with the rows.

python benchmarks/preparing.py [--rows 1000000] [--rounds 2] [--alone]

The pandas script (`pandas_prepare.py`) writes the same samples and prompts from the same files; where its prompts are not token for
token ours, this says so. Ours is both stages as a run has them, in a process and a Ray of their own for each measurement; Ray is up
and its workers have started when the clock starts, as they are in a run after its first seconds, and the pandas script's clock starts
after its imports. The floor is the stages' own code without Ray (`own_work.py`: CPU seconds of one core) shared among all cores.
A tenth of the rows is measured once more beside the rows asked for: with `--rows 10000000` ten times the default (minutes).
Memory is the driver's peak resident set, without what it shares with Ray's object store, beyond what it had before the stages began.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import generated
from memory import PeakMemory
from outcome import NOT_RUN, Outcome, alternate, show

ROWS, ROUNDS, GOAL = 1_000_000, 2, 2.0
PANDAS = "pandas + Arrow + tokenizers"
PIECES = "the same, each line encoded once"
LIMIT_S = 1_500
KEY, PROMPT = ["timestamp_s", "user_row", "item_row"], ["token_ids", "prefix_length"]


def both_stages(data: str, output: str) -> dict[str, float]:
    """Run both stages on a Ray of this process's own; return seconds and the driver's memory in MiB."""
    import ray

    from components.llm import config as llm_config
    from pipelines import cluster, prepare, prompts
    from pipelines.progress import Progress
    from pipelines.stage import StageContext

    cluster.connect(cluster.Config())
    wait = ray.remote(num_cpus=1)(lambda: time.sleep(1.0))
    ray.get([wait.remote() for _ in range(cluster.LEAST_LOGICAL_CPUS)])
    tables = generated.read(data)
    facts: dict[str, Any] = {}

    def context(stage: str) -> StageContext:
        folder = Path(output) / stage
        folder.mkdir(parents=True)
        return StageContext(output, str(folder), "0", Progress(2), lambda *_: None, facts)

    with PeakMemory() as memory:
        started_s = time.perf_counter()
        prepare.run(context("tables"), tables, prepare.Config())
        prepared_s = time.perf_counter()
        _manifest(Path(output) / "tables", facts)
        prompts.run(context("prompts"), prompts.Config(), llm_config.Config(path=str(Path(data) / "llm")), seed=1)
        written_s = time.perf_counter()
    ray.shutdown()
    return {"prepare_s": prepared_s - started_s, "prompts_s": written_s - prepared_s, "mib": memory.growth_mib}


def _manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Make the tables an artifact that the next stage takes; files are not hashed, which is no part of the stage."""
    from components import artifacts

    (folder / artifacts.MANIFEST).write_text(json.dumps({"fingerprint": "", "config": {}, "facts": facts, "seconds": 0.0, "files": {}}))


def own_work(data: str) -> tuple[float, float]:
    """Return the CPU seconds of both stages' own code."""
    import own_work as own
    import torch

    from components.features.tables import load_store
    from components.llm import backbone
    from components.llm import config as llm_config
    from components.llm.prompt_rows import PromptRows
    from pipelines import prepare, prompts

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables"
        prepare_s = own.prepared(generated.read(data), prepare.Config(), tables)
        config = prompts.Config()
        encoder = backbone.load_encoder(llm_config.Config(path=str(Path(data) / "llm")), config.max_tokens)
        rows = PromptRows(load_store(str(tables)), encoder, config.history_length)
        return prepare_s, own.prompted(rows.tokens, config, 1, tables, Path(folder) / "prompts")


def make_data(folder: str, rows: int) -> None:
    """Generate the rows, and a language model's tokenizer from their texts."""
    from components.llm import tiny
    from components.prompts.textualize import item_texts, user_texts

    generated.write(Path(folder), rows)
    tables = generated.read(folder)
    users, items = (next(sources[0].read()) for sources in (tables.users, tables.items))
    tiny.make(f"{folder}/llm", iter([*user_texts(users, tables.schema), *item_texts(items, tables.schema)] * 2), tiny.DEFAULT)


def with_pandas(data: str, output: str, pieces: bool) -> dict[str, float]:
    """Run the pandas script; return seconds and its peak memory in MiB."""
    from pipelines import prepare, prompts

    own, asked = prepare.Config(), prompts.Config()
    settings = {
        "min_history": own.min_history,
        "history_length": own.history_length,
        "shown": asked.history_length,
        "joint_samples": asked.joint_samples,
        "llm_samples": asked.llm_samples,
        "early_stopping_samples": asked.early_stopping_samples,
        "pieces": pieces,
    }
    Path(output).mkdir(parents=True)
    (Path(output) / "settings.json").write_text(json.dumps(settings))
    script = [sys.executable, str(Path(__file__).with_name("pandas_prepare.py")), data, output, f"{data}/llm/tokenizer.json"]
    done = subprocess.run([*script, f"{output}/settings.json"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"pandas_prepare.py: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def compared(ours: str, theirs: str) -> str:
    """Say whether the test samples and their prompts are the same, in any order."""
    import pyarrow.dataset as pads

    order = [(name, "ascending") for name in KEY]
    a, b = (pads.dataset(path).to_table(columns=[*KEY, *PROMPT]).sort_by(order) for path in (f"{ours}/prompts/test", theirs))
    return "the same test prompts, token for token" if a.equals(b) else "OTHER TEST PROMPTS"


class Measured:
    """Both contenders on one data set, each in processes of their own."""

    def __init__(self, folder: str, rows: int) -> None:
        self.data, self._folder, self.rows = f"{folder}/data-{rows}", folder, rows
        self.found: dict[str, list[dict[str, float]]] = {"ours": [], PANDAS: [], PIECES: []}
        _apart(make_data, self.data, rows)

    def ours(self) -> float:
        return self._run("ours", lambda output: _apart(both_stages, self.data, output))

    def script(self, who: str) -> float:
        return self._run(who, lambda output: with_pandas(self.data, output, pieces=who == PIECES))

    def output(self, who: str) -> str:
        return f"{self._folder}/{who}-{self.rows}-{len(self.found[who]) - 1}".replace(" ", "-")

    def median(self, who: str, key: str) -> float:
        values = sorted(each[key] for each in self.found[who])
        return values[len(values) // 2] if len(values) % 2 else sum(values[len(values) // 2 - 1 :][:2]) / 2

    def _run(self, who: str, work: Callable[[str], dict[str, float]]) -> float:
        self.found[who].append({})
        found = self.found[who][-1] = work(self.output(who))
        print(
            f"{self.rows:,} rows, {who}: {json.dumps({name: round(value, 2) for name, value in found.items()})}",
            file=sys.stderr,
            flush=True,
        )
        return self.rows / (found["prepare_s"] + found["prompts_s"])


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a process of its own, so that nothing of another measurement is in its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(work, arguments)


def outcomes(one: Measured, tenth: Measured, prepare_cpu_s: float, prompts_cpu_s: float) -> list[Outcome]:
    """Put both stages together beside the whole script, and Prepare alone beside its first half."""
    cores = os.cpu_count() or 1
    both_s, tenth_s = (sum(each.median("ours", key) for key in ("prepare_s", "prompts_s")) for each in (one, tenth))
    mib = one.median("ours", "mib")
    said = [
        f"ten times the rows of {tenth.rows:,} take {both_s / tenth_s:.1f} times as long and {mib - tenth.median('ours', 'mib'):+.0f} MiB "
        f"on the driver ({mib:.0f} MiB)",
        f"own code {prepare_cpu_s:.1f} + {prompts_cpu_s:.1f} CPU seconds",
    ]
    whole: dict[str, float | str] = dict.fromkeys((PANDAS, PIECES), NOT_RUN)
    half: dict[str, float | str] = {PANDAS: NOT_RUN}
    for who in (PANDAS, PIECES):
        if one.found[who]:
            first_s, second_s = (one.median(who, key) for key in ("prepare_s", "prompts_s"))
            whole[who], half[PANDAS] = one.rows / (first_s + second_s), one.rows / first_s
            same = compared(one.output("ours"), one.output(who) + "/prompts-test.parquet")
            said.append(f"{who}: {one.median(who, 'mib'):.0f} MiB, {same}")
    rows = f"{one.rows:,} rows"
    floor = cores * one.rows / (prepare_cpu_s + prompts_cpu_s)
    ours = one.rows / one.median("ours", "prepare_s")
    return [
        Outcome(f"prepare and prompts, {rows}", "rows/s", one.rows / both_s, whole, {PANDAS: GOAL}, floor, "; ".join(said)),
        Outcome(f"prepare alone, {rows}", "rows/s", ours, half, {}, cores * one.rows / prepare_cpu_s),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=ROWS, help="interactions; a tenth of them is measured too")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="times that both are measured, one after the other")
    parser.add_argument("--alone", action="store_true", help="without the pandas script, which takes minutes on ten million rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preparing-", dir="/tmp") as folder:  # Ray's sockets need a short path
        os.environ.setdefault("RAY_TMPDIR", folder)
        tenth, one = (Measured(folder, rows) for rows in (options.rows // 10, options.rows))
        tenth.ours()
        scripts = {} if options.alone else {who: partial(one.script, who) for who in (PANDAS, PIECES)}
        alternate({"ours": one.ours, **scripts}, options.rounds)
        show(outcomes(one, tenth, *_apart(own_work, one.data)))


if __name__ == "__main__":
    main()
