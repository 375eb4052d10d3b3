"""What a training run refuses before its first stage, though only a later one needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.crm.embedding import Table
from components.errors import ConfigError
from components.features.reader import Share
from components.joint import alignment
from components.joint.training import Surroundings
from components.joint.workbench import Parts, Workbench
from tests.components.joint import runs

pytestmark = pytest.mark.slow


def begin(parts: Parts, data: Path, stages: slice = slice(None)) -> None:
    around = Surroundings(Share(0, 1), lambda line: None, lambda write: None, checkpoint_every_s=1e9)
    Workbench(parts, "cpu").training(runs.stages(data)[stages], around)


def test_an_alignment_of_a_block_that_the_llm_lacks_is_refused_before_the_warm_up(data: Path) -> None:
    parts = runs.parts(data)
    with pytest.raises(ConfigError, match=r"^train\.alignment\.pairs: expected LLM blocks 0 to \d+ and CRM layers 0 to \d+, got \(9, 0\)$"):
        begin(replace(parts, alignment=alignment.Config(pairs=((9, 0),))), data)
    begin(replace(parts, alignment=alignment.Config(pairs=((0, 0),))), data)


def test_adapters_of_modules_that_the_llm_lacks_are_refused_before_the_warm_up(data: Path) -> None:
    parts = runs.parts(data, **runs.LORA, lora_targets=("q_prj",))
    with pytest.raises(ConfigError, match=r"no adapter fits the model: .*q_prj"):
        begin(parts, data)
    begin(parts, data, slice(0, 1))  # nothing but the warm-up, which asks no LLM


def test_tables_are_sparse_where_it_is_asked_for_and_nowhere_else(data: Path) -> None:
    for asked in (True, False):
        bench, (warmup, *_) = Workbench(replace(runs.parts(data), sparse_tables=asked), "cpu"), runs.stages(data)
        crm = bench.build("crm")
        engine = bench.engine(warmup, {"crm": crm})
        tables = [module.sparse for module in crm.modules() if isinstance(module, Table)]
        assert tables == [asked] * 3  # the fields', the fold-in's vectors and its offsets
        engine.close()
        assert not any(module.sparse for module in crm.modules() if isinstance(module, Table))
