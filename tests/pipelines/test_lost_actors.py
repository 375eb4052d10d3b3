"""Ray Data's workers are killed in the middle of their work: no row is lost, none is doubled, and every value is what it should be."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from components import artifacts
from components.crm import CrmConfig
from components.crm import build as build_crm
from components.features.tables import load_store, read_samples
from components.joint.crm_files import load_crm, save_crm, score_crm
from components.joint.data import token_arrays
from components.llm import backbone, scorer
from components.llm.prompt_parts import write_prompts
from components.llm.prompt_rows import PromptRows
from pipelines import prompts, score
from pipelines.progress import Progress
from pipelines.stage import StageContext
from tests.components.joint import prepared
from tests.pipelines.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.faults]
MARKS = "TANDEM_TEST_MARKS"  # names the folder where those who died left a mark; actors have it from the environment
KEY = ["split", "user_id", "item_id", "timestamp_s"]
ASKED = prompts.Config(history_length=4, max_tokens=prepared.MAX_TOKENS, joint_samples=90, llm_samples=60, early_stopping_samples=33)


def die_once(who: str) -> None:
    """Kill this process, unless one died here before."""
    with contextlib.suppress(FileExistsError):
        (Path(os.environ[MARKS]) / who).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


def mortal_write(*arguments: Any) -> Any:
    """Die with the first file written and not yet counted."""
    done = write_prompts(*arguments)
    die_once("render")
    return done


class MortalCrmScorer(score.CrmScorer):
    """Dies in its second batch."""

    batches = 0

    def __call__(self, samples: pa.Table) -> pa.Table:
        self.batches += 1
        if self.batches == 2:
            die_once("crm")
        return super().__call__(samples)


class MortalLlmScorer(score.LlmScorer):
    """Dies with its third batch done and not yet handed over."""

    batches = 0

    def __call__(self, samples: pa.Table) -> pa.Table:
        done = super().__call__(samples)
        self.batches += 1
        if self.batches == 3:
            die_once("llm")
        return done


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prompts and the score table of the tiny data set, made by actors that died on the way."""
    output, data = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("data")
    prepared.make(data)
    (output / "marks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARKS, str(output / "marks"))
        patch.setattr(prompts, "write_prompts", mortal_write)
        patch.setattr(score, "CrmScorer", MortalCrmScorer)
        patch.setattr(score, "LlmScorer", MortalLlmScorer)
        with local_ray():
            make(output, "tables", lambda at: tables(at, data))
            make(output, "prompts", lambda at: prompts.run(at, ASKED, backbone.Config(path=str(data / "backbone")), seed=3))
            make(output, "checkpoints", lambda at: checkpoints(at, data))
            make(output, "scores", lambda at: score.run(at, score.Config(llm_actors=1, rows_per_block=8), backbone.Config()))
    return output


def make(output: Path, stage: str, run: Callable[[StageContext], None]) -> None:
    with artifacts.create(str(output / stage), "f", ()) as (folder, facts):
        run(StageContext(str(output), folder, "f", Progress(1), lambda *_: None, facts))


def tables(at: StageContext, data: Path) -> None:
    shutil.copytree(data / "tables", at.folder, dirs_exist_ok=True)
    shutil.copytree(data / "tables" / "train", Path(at.folder) / "test")
    at.facts["rows"] = {split: read_samples(f"{at.folder}/{split}").num_rows for split in ("train", "valid", "test")}


def checkpoints(at: StageContext, data: Path) -> None:
    torch.manual_seed(0)
    save_crm(build_crm(CrmConfig(), load_store(str(data / "tables")).inputs), CrmConfig(), Path(at.folder) / "crm")
    shutil.copytree(data / "backbone", Path(at.folder) / "llm")


def by_key(table: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = table.to_pylist()
    found = {tuple(row[name] for name in KEY if name in row): row for row in rows}
    assert len(found) == len(rows), "a row is there twice"
    return found


def test_every_actor_died(output: Path) -> None:
    assert sorted(path.name for path in (output / "marks").iterdir()) == ["crm", "llm", "render"]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_no_prompt_is_lost_or_doubled(output: Path, split: str) -> None:
    store = load_store(str(output / "tables"))
    encoder = backbone.load_encoder(backbone.Config(path=str(output / "checkpoints" / "llm")), ASKED.max_tokens)
    expected = PromptRows(store, encoder, ASKED.history_length).encode(read_samples(str(output / "tables" / split)))
    assert by_key(read_samples(str(output / "prompts" / split))) == by_key(expected)


def test_training_samples_are_drawn_as_counted(output: Path) -> None:
    counts = artifacts.require(str(output / "prompts")).facts["prompts"]
    drawn = {name: by_key(read_samples(str(output / "prompts" / name))) for name in ("joint", "llm")}
    assert {name: len(rows) for name, rows in drawn.items()} == {name: counts[name] for name in drawn}
    assert not drawn["joint"].keys() & drawn["llm"].keys()


@pytest.mark.parametrize("split", ["valid", "test"])
def test_no_score_is_lost_or_doubled(output: Path, split: str) -> None:
    store, samples = load_store(str(output / "tables")), read_samples(str(output / "prompts" / split))
    crm = load_crm(str(output / "checkpoints" / "crm"), store.inputs)
    llm = backbone.load(backbone.Config(path=str(output / "checkpoints" / "llm"), dtype="auto"))[0]
    p_crm = score_crm(crm, store, samples)["p_crm"]
    p_llm = scorer.score(llm, token_arrays(samples), score.Config().max_batch_tokens, "cpu")
    scores = read_samples(str(output / "scores"))
    assert set(scores["split"].to_pylist()) == {"valid", "test"}
    found, expected = by_key(scores.filter(pc.field("split") == split)), by_key(samples.append_column("row", pa.array(range(len(p_llm)))))
    assert {key[1:] for key in found} == expected.keys()
    rows = [expected[key[1:]]["row"] for key in found]
    np.testing.assert_allclose([row["p_crm"] for row in found.values()], p_crm[rows], atol=1e-6)
    np.testing.assert_allclose([row["p_llm"] for row in found.values()], p_llm[rows], atol=1e-6)
