"""What a training run refuses before its first stage, though only a later one needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.errors import ConfigError
from components.features.reader import Share
from components.joint import alignment
from components.joint.training import Surroundings
from components.joint.workbench import Workbench
from tests.components.joint import runs

pytestmark = pytest.mark.slow


def test_an_alignment_of_a_block_that_the_llm_lacks_is_refused_before_the_warm_up(data: Path) -> None:
    around = Surroundings(Share(0, 1), lambda line: None, lambda write: None, checkpoint_every_s=1e9)
    parts = runs.parts(data)
    with pytest.raises(ConfigError, match=r"^train\.alignment\.pairs: expected LLM blocks 0 to \d+ and CRM layers 0 to \d+, got \(9, 0\)$"):
        Workbench(replace(parts, alignment=alignment.Config(pairs=((9, 0),))), "cpu").training(runs.stages(data), around)
    Workbench(replace(parts, alignment=alignment.Config(pairs=((0, 0),))), "cpu").training(runs.stages(data), around)
