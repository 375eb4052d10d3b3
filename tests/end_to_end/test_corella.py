"""The paper's recipe on a small machine: the same code path with a two-layer Llama and two CPU workers."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.components.llm import families
from tests.end_to_end.command import SMALL, pipeline

pytestmark = pytest.mark.end_to_end
USERS, MOVIES, RATINGS = 40, 50, 3_000
ON_CPU = [
    "--train.workers",
    "2",
    "--train.cpus-per-worker",
    "1",
    "--train.use-gpu",
    "no",
    "--score.use-gpu",
    "no",
    "--score.llm-actors",
    "2",
]


@pytest.fixture(scope="module")
def ml_1m(short_folder: Path) -> Path:
    """A folder in MovieLens-1M's format with ratings at random."""
    random = np.random.default_rng(0)
    folder = short_folder / "ml-1m"
    folder.mkdir()
    movies = [f"{movie}::Film {movie} (1999)::{random.choice(['Drama', 'Comedy', 'Drama|War'])}" for movie in range(1, MOVIES + 1)]
    users = [f"{user}::{random.choice(['F', 'M'])}::25::{user % 20}::12345" for user in range(1, USERS + 1)]
    pairs = random.choice(USERS * MOVIES, size=min(RATINGS, USERS * MOVIES), replace=False)
    ratings = [
        f"{pair // MOVIES + 1}::{pair % MOVIES + 1}::{random.integers(1, 6)}::{978_300_000 + 60 * row}" for row, pair in enumerate(pairs)
    ]
    for name, lines in (("movies", movies), ("users", users), ("ratings", ratings)):
        (folder / f"{name}.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    return folder


def test_the_dry_run_shows_the_plan_and_what_the_cluster_lacks(ml_1m: Path, short_folder: Path) -> None:
    done = pipeline(short_folder, "corella", "--data", str(ml_1m), "--dry-run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('"stage": 3') == 2
    assert done.stdout.count('"bf16"') == 2
    assert "training workers 4 x {'CPU': 4, 'GPU': 1.0}" in done.stdout
    assert "NOT enough" in done.stdout


def test_a_two_layer_llama_takes_the_same_path_while_the_tracking_server_is_away(ml_1m: Path, short_folder: Path) -> None:
    output, llama = short_folder / "corella", families.save("llama", short_folder / "llama", layers=2)
    own = [
        "--llm.path",
        str(llama),
        "--llm.revision",
        "",
        "--prompts.max-tokens",
        "1024",
        "--prepare.expected-rows",
        "None",
        "--train.warmup.epochs",
        "2",
    ]
    command = ["corella", "--data", str(ml_1m), "--output", str(output), *SMALL, *own, *ON_CPU]
    done = pipeline(short_folder, *command, "--tracking.uri", "http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "tracking is away" in done.stderr
    saved = output / "checkpoints" / "llm"
    assert json.loads((saved / "base.json").read_text()) == {"path": str(llama), "revision": "", "dtype": "bfloat16"}
    assert json.loads((saved / "adapter_config.json").read_text())["target_modules"] in (["q_proj", "v_proj"], ["v_proj", "q_proj"])
    log = [json.loads(line) for line in (output / "checkpoints" / "training_log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["stage"] for line in log)) == ["warmup", "joint", "llm"]
    assert any("train_alignment_loss" in line for line in log)
    scores = pd.read_parquet(output / "scores")
    assert scores["p_llm"].between(0, 1).all()

    # The same command, with a store that answers, sends what was kept and does nothing else.
    store = short_folder / "later.db"
    again = pipeline(short_folder, *command, "--tracking.uri", f"sqlite:///{store}")
    assert again.returncode == 0, again.stderr[-4000:]
    assert "checkpoints" not in again.stderr
    with sqlite3.connect(store) as database:
        names = {name for (name,) in database.execute("select name from runs")}
        versions = database.execute("select count(*) from model_versions").fetchone()
    assert {"corella", "tables", "prompts", "checkpoints", "scores", "policy", "ensemble", "report"} <= names
    assert versions == (1,)
