"""The training loop: whole runs against resumed ones, one worker against two, and its choices by hand with an engine that only pretends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.errors import DataError
from components.features.reader import Share
from components.features.store import FeatureStore
from components.features.tables import load_store, read_samples
from components.joint.model import JointBatch, JointOutput, LossWeights
from components.joint.plan import ModelName, Position, Stage, StageConfig
from components.joint.training import Surroundings, Training, load_weights
from components.llm import backbone
from components.llm.tokens import TokenLayout
from tests.components.joint import prepared, record, runs, worlds
from tests.components.joint.runs import Ended

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """A run that was never broken, and its checkpoints, one after each step."""
    kept = tmp_path_factory.mktemp("kept")
    return worlds.run(1, runs.unbroken, data, runs.parts(data), kept)[0], kept


@pytest.fixture(scope="module")
def again(data: Path, whole: tuple[Ended, Path]) -> dict[str, Ended]:
    """Runs that were broken at each of PLACES and went on from the checkpoint there."""
    number = runs.places(whole[0].checkpoints)
    folders = [whole[1] / f"checkpoint_{number[place]:03}" for place in PLACES.values()]
    return dict(zip(PLACES, worlds.run(1, runs.resumed, data, runs.parts(data), folders)[0], strict=True))


PLACES = {  # (stage, epoch, batch) of the checkpoint
    "in the middle of an epoch": (0, 1, 2),
    "at the last batch of an epoch, before it was validated": (0, 0, 6),
    "between two epochs": (1, 1, 0),
    "between two stages": (0, 2, 0),
    "in the middle of the joint stage": (1, 0, 3),
    "at the last batch of all": (2, 0, 6),
    "after the last epoch of all": (2, 1, 0),
}


def assert_same(found: Ended, expected: Ended, tolerance: float = 1e-6) -> None:
    assert_same_lines(found.log, expected.log, tolerance)
    assert found.best == {name: (pytest.approx(auc, abs=tolerance), *where) for name, (auc, *where) in expected.best.items()}
    for name, weights in expected.weights.items():
        assert found.weights[name].keys() == weights.keys()
        for key, value in weights.items():
            np.testing.assert_allclose(found.weights[name][key], value, rtol=0, atol=tolerance, err_msg=key)


def assert_same_lines(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]], tolerance: float) -> None:
    assert len(found) == len(expected)
    for line, other in zip(found, expected, strict=True):
        assert line == {name: pytest.approx(value, abs=tolerance) if isinstance(value, float) else value for name, value in other.items()}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_broken_here_ends_as_if_it_never_was(whole: tuple[Ended, Path], again: dict[str, Ended], place: str) -> None:
    assert_same(again[place], whole[0])


def test_a_resumed_run_reports_its_whole_log_and_each_step_once(whole: tuple[Ended, Path], again: dict[str, Ended]) -> None:
    for ended in (whole[0], *again.values()):
        assert ended.reported == ended.log
        steps = [(line["stage"], line["step"]) for line in ended.log if "steps" in line]
        planned = [("warmup", 12), ("joint", 12), ("llm", 6)]
        assert steps == [(stage, step) for stage, count in planned for step in range(1, count + 1)]


def test_each_stage_starts_from_the_best_weights_so_far(whole: tuple[Ended, Path]) -> None:
    validations = [line for line in whole[0].log if "epoch" in line]
    assert [(line["stage"], line["epoch"]) for line in validations] == [
        *[("warmup", epoch) for epoch in (0, 1, 2)],
        *[("joint", epoch) for epoch in (0, 1, 2)],
        ("llm", 1),  # what the LLM can do at its start is known from the joint stage
    ]
    warm = max(line["valid_crm_auc"] for line in validations[:3])
    assert validations[3]["valid_crm_auc"] == pytest.approx(warm, abs=1e-9)
    assert whole[0].best["crm"][0] == max(line.get("valid_crm_auc", 0.0) for line in validations)
    assert whole[0].best["llm"][0] == max(line.get("valid_llm_auc", 0.0) for line in validations)


def test_the_tiny_run_learns(whole: tuple[Ended, Path]) -> None:
    assert whole[0].best["crm"][0] > 0.75
    assert whole[0].best["llm"][0] > 0.6


def test_losses_repeat_the_recorded_curve(whole: tuple[Ended, Path]) -> None:
    """`python -m tests.components.joint.record` records it anew, where a change of the numbers is meant."""
    expected = json.loads(record.CURVE.read_text())
    found = record.curve(whole[0].log)
    assert found.keys() == expected.keys()
    for stage, losses in expected.items():
        assert found[stage] == pytest.approx(losses, rel=1e-4)


def test_two_workers_take_the_same_steps_and_find_the_same_scores_as_one(data: Path) -> None:
    still = runs.parts(data, runs.STILL)
    alone = worlds.run(1, runs.unbroken, data, still, None)[0]
    first, second = worlds.run(2, runs.unbroken, data, still, None)
    assert_same(first, alone, 2e-4)
    assert second.log == first.log
    assert_same(second, first, 0.0)


def test_the_first_workers_clock_decides_when_all_write_a_checkpoint(data: Path, tmp_path: Path) -> None:
    first, second = worlds.run(2, runs.by_clocks_that_differ, data, runs.parts(data), tmp_path)
    assert len(first.checkpoints) == len(second.checkpoints) == 30 + 5  # one a step, one an epoch


def test_checkpoints_of_adapters_hold_no_frozen_weight_and_a_run_resumes_from_them(data: Path, tmp_path: Path) -> None:
    lora = runs.parts(data, runs.CRM, **runs.LORA)
    unbroken = worlds.run(1, runs.unbroken, data, lora, tmp_path)[0]
    folder = tmp_path / f"checkpoint_{runs.places(unbroken.checkpoints)[1, 0, 3]:03}"
    assert sum(path.stat().st_size for path in folder.rglob("*llm*")) < (data / "backbone" / "model.safetensors").stat().st_size / 2
    assert_same(worlds.run(1, runs.resumed, data, lora, [folder])[0][0], unbroken)


# From here on with an engine whose AUC on validation rows is told beforehand.


class Pretending:
    """Scores labels as well as it is told: 1 right, 0 no idea, -1 wrong; its weights are the number of its validation."""

    def __init__(self, told: Mapping[str, list[float]], trace: list[str]) -> None:
        self.model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in told})
        for name, part in self.model.items():
            setattr(self.model, name, part)
        self._told, self._trace = told, trace
        self._asked = dict.fromkeys(told, -1)

    def step(self, micro_batches: Sequence[JointBatch], rate: float) -> dict[str, Tensor]:
        self._trace.append(f"step at {rate:g}")
        return {"loss": torch.tensor(0.5)}

    def evaluate(self, batch: JointBatch) -> JointOutput:
        name = "crm" if batch.crm is not None else "llm"
        self._asked[name] += 1  # validation rows fit one batch
        logits_B = batch.label_B * self._told[name][self._asked[name]]
        return JointOutput(torch.tensor(0.0), {}, logits_B if name == "crm" else None, logits_B if name == "llm" else None)

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        name = next(name for name, part in self.model.items() if part is module)
        return {"weight": torch.full((1, 1), float(self._asked[name]))}

    def save(self, folder: Path) -> None:
        self._trace.append("save")

    def load(self, folder: Path) -> None:
        self._trace.append("load")

    def close(self) -> None:
        self._trace.append("close")


@cache
def inputs(data: Path) -> tuple[FeatureStore, TokenLayout]:
    return load_store(str(data / "tables")), backbone.load_encoder(backbone.Config(path=str(data / "backbone")), prepared.MAX_TOKENS).layout


def pretend(data: Path, told: Mapping[str, Mapping[str, list[float]]], patience: int = 2, epochs: int = 9) -> tuple[Training, list[str]]:
    """Run the stages of `told` (stage -> model -> score at each validation), one step an epoch."""
    trace: list[str] = []
    weights = {"warmup": LossWeights(crm=1.0), "joint": LossWeights(1.0, 1.0), "llm": LossWeights(llm=1.0)}
    stages = [
        Stage(name, StageConfig(weights[name], epochs, micro_batch=96, patience=patience, warmup_share=0.0), str(data / "prompts" / "llm"))
        for name in told
    ]
    store, layout = inputs(data)
    valid: dict[ModelName, str] = {name: str(data / "prompts" / "early_stopping") for name in ("crm", "llm")}
    around = Surroundings(Share(), lambda line: trace.append(f"report {line['stage']}"), lambda write: trace.append("checkpoint"), 1e9)
    training = Training(
        stages,
        lambda name: nn.Linear(1, 1, bias=False),
        lambda stage, models: Pretending(told[stage.name], trace),  # pyright: ignore[reportArgumentType]
        store,
        layout,
        valid,
        0,
        around,
    )
    training.run()
    return training, trace


@pytest.fixture(autouse=True)
def _one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.joint.training.VALID_ROWS", {"crm": 4096, "llm": 4096})


def test_a_stage_ends_when_it_has_not_improved_for_as_many_epochs_as_it_may(data: Path) -> None:
    # Validated before training and after each epoch; 0.5 is beaten by 1, then two epochs bring nothing.
    training, trace = pretend(data, {"warmup": {"crm": [0.0, 1.0, 0.0, 1.0, 1.0]}})
    assert trace.count("step at 1") == 1
    assert sum(line.startswith("step") for line in trace) == 3
    best = training.position.best["crm"]
    assert (best.auc, best.stage, best.epoch) == (1.0, "warmup", 1)
    assert training.best_weights["crm"]["weight"].item() == 1.0
    assert trace.count("checkpoint") == 3
    assert trace[-1] == "close"


def test_an_improvement_starts_the_count_anew(data: Path) -> None:
    told = [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0]  # improves at epochs 2 and 4
    training, trace = pretend(data, {"warmup": {"crm": told}})
    assert sum(line.startswith("step") for line in trace) == 6
    assert training.position.best["crm"].epoch == 4


def test_a_stage_that_keeps_improving_ends_with_its_epochs(data: Path) -> None:
    _, trace = pretend(data, {"warmup": {"crm": [-1.0, 0.0, 1.0]}}, epochs=2)
    assert sum(line.startswith("step") for line in trace) == 2


def test_in_the_joint_stage_the_llm_decides_when_it_ends(data: Path) -> None:
    told = {"crm": [0.0, 0.0, 0.0, 0.0, 0.0], "llm": [-1.0, 0.0, 1.0, 0.0, 0.0]}
    training, trace = pretend(data, {"joint": told})
    assert sum(line.startswith("step") for line in trace) == 4
    assert training.position.best["llm"].epoch == 2
    assert training.position.best["crm"].epoch == 0


def test_a_later_stage_can_not_spoil_what_an_earlier_one_found(data: Path) -> None:
    told = {
        "warmup": {"crm": [0.0, 0.0, 1.0, 0.0, 0.0]},  # weights 2 are the best
        "joint": {"crm": [0.0, -1.0, 0.0, 0.0], "llm": [-1.0, 0.0, 0.0, 0.0]},  # the LLM's first epoch is its best
        "llm": {"llm": [-1.0, 0.0]},  # as good as before is not better
    }
    training, _ = pretend(data, told)
    assert [training.position.best[name].stage for name in ("crm", "llm")] == ["warmup", "joint"]
    assert training.model("crm").weight.item() == 2.0
    assert training.model("llm").weight.item() == 1.0


def test_a_better_later_stage_wins(data: Path) -> None:
    told = {"warmup": {"crm": [-1.0, 0.0]}, "joint": {"crm": [0.0, 1.0], "llm": [0.0, 0.0]}, "llm": {"llm": [1.0]}}
    training, _ = pretend(data, told, epochs=1)
    assert [(best.stage, best.epoch) for best in training.position.best.values()] == [("joint", 1), ("llm", 1)]


def test_nothing_is_learned_where_validation_rows_have_one_label(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = read_samples(str(data / "prompts" / "early_stopping"))
    ones = samples.filter(np.asarray(samples["label"]) == 1)
    monkeypatch.setattr("components.joint.training.read_samples", lambda uri, columns: ones)
    with pytest.raises(DataError, match=rf"both labels at .*early_stopping, got one in {ones.num_rows} rows"):
        pretend(data, {"warmup": {"crm": [0.0]}})


def test_weights_that_do_not_fit_are_never_loaded_in_part() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(AssertionError, match=r"missing \{.bias.\}"):
        load_weights(model, {"weight": torch.zeros(2, 2)})
    with pytest.raises(AssertionError, match="unexpected"):
        load_weights(model, {**model.state_dict(), "other": torch.zeros(1)})
    model.bias.requires_grad_(False)
    load_weights(model, {"weight": torch.zeros(2, 2)})  # a frozen one stays as it is
    assert model.weight.abs().sum().item() == 0.0


def test_a_position_of_a_finished_run_trains_nothing(data: Path) -> None:
    training, trace = pretend(data, {"warmup": {"crm": [0.0, 0.0, 0.0]}})
    assert training.position == Position(stage=1, best=training.position.best)
    trace.clear()
    training.run()
    assert trace == []
