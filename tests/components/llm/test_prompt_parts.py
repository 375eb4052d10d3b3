"""Parts of a table of prompts: which samples they draw, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.features.sampling import uniform_hash
from components.features.store import fit_store
from components.features.tables import read_samples
from components.llm import prompt_parts
from components.llm.prompt_parts import Part, write_prompts
from components.llm.prompt_rows import PromptRows
from components.llm.prompt_tokens import PromptTokens
from components.llm.tokens import PromptEncoder
from pipelines import prompts
from tests.components.llm import families
from tests.components.llm.test_prompt_rows import ITEMS, SCHEMA, USERS

ROWS, SEED = 50, 4


@pytest.fixture(scope="module")
def tokens() -> PromptTokens:
    store = fit_store(SCHEMA, USERS, ITEMS, {}, history_length=5, tag_width=6)
    return PromptRows(store, PromptEncoder(families.byte_level(), 500), 5).tokens


@pytest.fixture(scope="module")
def samples() -> pa.Table:
    random = np.random.default_rng(1)
    return pa.table(
        {
            "user_row": pa.array(random.integers(0, 2, ROWS), pa.int32()),
            "item_row": pa.array(random.integers(0, 4, ROWS), pa.int32()),
            "timestamp_s": np.arange(ROWS),
            "history_rows": pa.array([[row % 4] * (row % 3) for row in range(ROWS)], pa.list_(pa.int32())),
            "history_ratings": pa.array([[4.0] * (row % 3) for row in range(ROWS)], pa.list_(pa.float32())),
        }
    )


def test_each_part_gets_the_prompts_of_its_samples_in_their_order(
    tokens: PromptTokens, samples: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_parts, "BATCH_ROWS", 7)
    pq.write_table(samples, tmp_path / "samples.parquet")
    parts = {"few": Part("valid", 0.0, 0.3), "all": Part("valid", 0.0, 1.0), "none": Part("valid", 0.5, 0.5)}
    rows = write_prompts(tokens, str(tmp_path / "samples.parquet"), parts, SEED, str(tmp_path / "out"), 3)
    place = uniform_hash(SEED, *(samples[name].to_numpy() for name in ("user_row", "item_row", "timestamp_s")))
    few = samples.filter(pa.array(place < 0.3))
    assert 0 < few.num_rows < ROWS
    assert rows == {"few": few.num_rows, "all": ROWS}
    assert read_samples(str(tmp_path / "out" / "all")).equals(tokens.encode(samples))
    assert read_samples(str(tmp_path / "out" / "few")).equals(tokens.encode(few))
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.parquet")) == [
        "all/part-000003.parquet",
        "few/part-000003.parquet",
    ]


def test_the_parts_of_train_share_no_sample_where_there_are_enough() -> None:
    parts = prompts.drawn({"train": 1_000, "valid": 100, "test": 50}, prompts.Config(joint_samples=200, llm_samples=700))
    assert (parts["joint"], parts["llm"]) == (Part("train", 0.0, 0.2), Part("train", 0.2, pytest.approx(0.9)))
    assert parts["early_stopping"] == Part("valid", 0.0, 1.0)


def test_they_overlap_where_both_ask_for_more_than_there_is() -> None:
    parts = prompts.drawn({"train": 100, "valid": 4_000, "test": 50}, prompts.Config(joint_samples=60, llm_samples=80))
    assert parts["joint"] == Part("train", 0.0, 0.6)
    assert (parts["llm"].low, parts["llm"].high) == (pytest.approx(0.2), pytest.approx(1.0))
    assert parts["early_stopping"] == Part("valid", 0.0, 0.5)
