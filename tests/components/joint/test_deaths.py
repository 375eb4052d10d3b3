"""A worker that is killed anywhere in training: the run goes on from its checkpoints and ends as if nobody had died."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.joint import deepspeed_engine
from tests.components.joint import deaths, runs
from tests.components.joint.deaths import Death
from tests.components.joint.test_training import assert_same

# Epochs have 6 steps, two of them in the warm-up and in the joint stage, one in the LLM's: so steps 4 and 8 are in the middle
# of an epoch, the validation after step 6 is at the boundary of two, and step 12 (the LLM's 6) is a stage's last batch.
CASES: dict[str, tuple[int, dict[str, Any], list[Death]]] = {
    "ZeRO-2, all weights": (2, {}, [Death("warmup", 4), Death("joint", 6, "validation", rank=0), Death("llm", 6)]),
    "ZeRO-3, adapters": (3, runs.LORA, [Death("warmup", 12, rank=0), Death("joint", 8, "checkpoint"), Death("llm", 6, "validation")]),
}


@pytest.mark.faults
@pytest.mark.parametrize("case", CASES)
def test_a_run_whose_workers_are_killed_ends_as_an_unbroken_one(data: Path, tmp_path: Path, case: str) -> None:
    zero, llm, dying = CASES[case]
    made_of = replace(runs.parts(data, **llm), deepspeed=deepspeed_engine.Config(zero_stage=zero, precision="fp32"))  # pyright: ignore[reportArgumentType]
    unbroken = deaths.through([], data, made_of, tmp_path / "unbroken")
    broken = deaths.through(dying, data, made_of, tmp_path / "broken")
    assert_same(broken, unbroken)
    deaths.assert_same_state(tmp_path / "broken", tmp_path / "unbroken")
    reported = [json.loads(line) for line in (tmp_path / "broken" / "reported.jsonl").read_text().splitlines()]
    assert len(reported) > len(broken.log), "some steps were taken twice, and stand in the log once"
