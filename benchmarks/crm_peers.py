"""Runs each side of the CRM's benchmarks in a process of its own, all of the same shape on the same rows."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import crm_rows
from outcome import NOT_INSTALLED

from components.crm import CrmConfig
from components.features.split import SPLITS
from components.features.tables import count_rows

HERE = Path(__file__).resolve().parent
PEERS = {"FuxiCTR": "fuxictr", "RecBole": "recbole"}
BARE = "bare torch loop"
TIMEOUT_S = 600
Found = dict[str, dict[str, float]]


def arguments(doc: str | None, **more: Mapping[str, Any]) -> argparse.Namespace:
    """Parse what both scripts are told, and `more`."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--data", type=Path, default=crm_rows.DATA, help="folder of MovieLens-1M")
    parser.add_argument("--peers", type=Path, default=HERE.parent / ".peers", help="folder of `benchmarks/peers.sh`")
    parser.add_argument("--rows", type=int, default=1_000_209, help="ratings; a tenth validates, a tenth tests")
    parser.add_argument("--kept", type=Path, help="folder to keep the rows in, or one that holds them from another run")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of each side: of a peer's process, or our workers with one each"
    )
    parser.add_argument("--rounds", type=int, default=2)
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def job(options: argparse.Namespace, folder: str, **more: Any) -> dict[str, Any]:
    """Say what to train and score: our defaults for the shape."""
    config = CrmConfig()
    return {
        "folder": folder,
        "batch": options.batch,
        "threads": options.threads,
        "embedding_size": config.embedding_size,
        "cross_layers": config.dcnv2.cross_layers,
        "hidden_sizes": config.dcnv2.hidden_sizes,
        "learning_rate": 1e-3,
        "score_batch": 8192,
        "epochs": 0,
        "score": False,
        "precision": "fp32",
        **more,
    }


@contextmanager
def rows(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield a folder with the rows, and their counts."""
    with tempfile.TemporaryDirectory(prefix="crm-", dir="/tmp") as temp:
        folder = options.kept or Path(temp) / "rows"
        if not folder.exists():
            crm_rows.make(options.data, folder, options.rows)
        yield str(folder), {split: count_rows(str(folder / "tables" / split)) for split in SPLITS}


def sides(options: argparse.Namespace) -> dict[str, list[str] | str]:
    """Return each peer's command, or why there is none."""
    commands: dict[str, list[str] | str] = {}
    for name, folder in PEERS.items():
        python = options.peers / folder / "bin" / "python"
        commands[name] = [str(python), str(HERE / "peers" / f"run_{folder}.py")] if python.exists() else NOT_INSTALLED
    commands[BARE] = [sys.executable, str(HERE / "peers" / "run_torch.py")]
    return commands


OURS = [sys.executable, str(HERE / "crm_tandem.py")]


def ask(command: Sequence[str], told: Mapping[str, Any]) -> dict[str, float]:
    """Run one side; return the JSON of its last line."""
    threads = str(told["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment["PYTHONPATH"] = str(HERE.parent) if command[0] == sys.executable else ""
    with tempfile.TemporaryDirectory(prefix="crm-", dir="/tmp") as folder:  # FuxiCTR may start a Ray, whose sockets need a short path
        environment |= {"RAY_TMPDIR": folder, "TMPDIR": folder}
        found = subprocess.run([*command, json.dumps(told)], capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, cwd=folder)
    if found.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{found.stderr[-2000:]}")
    return json.loads(found.stdout.splitlines()[-1])


def medians(answers: Mapping[str, Sequence[Mapping[str, float]]]) -> Found:
    """Return the median of each figure of each side."""
    return {side: {name: median(answer[name] for answer in each) for name in each[0]} for side, each in answers.items() if each}
