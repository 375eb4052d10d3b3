"""Both engines against plain torch, in worlds of one and two workers without Ray."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import ConfigError
from components.joint import deepspeed_engine
from tests.components.joint import engines, worlds
from tests.components.joint.engines import Case, Outcome

pytestmark = pytest.mark.slow

FP32 = [None, 0, 1, 2, 3]  # None: torch's engine; else DeepSpeed's ZeRO stage


@cache
def plain(case: Case) -> Outcome:
    return worlds.run(1, engines.plainly, replace(case, zero=None, accumulation=1, precision="fp32"))[0]


@cache
def trained(case: Case, workers: int) -> list[Outcome]:
    return worlds.run(workers, engines.by_engine, case)


def assert_losses(found: list[dict[str, float]], expected: list[dict[str, float]], tolerance: float) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=tolerance)


def assert_weights(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("zero", FP32)
def test_two_workers_train_what_plain_torch_trains_alone(data: Path, zero: int | None) -> None:
    case = Case(data, zero)
    first, second = trained(case, 2)
    assert_losses(first.losses, plain(case).losses, 1e-6)
    assert_weights(first.weights, plain(case).weights, 2e-5)  # where a gradient is nearly 0, Adam turns its rounding into a step
    assert_weights(second.weights, first.weights, 0)  # whole on every worker


@pytest.mark.parametrize("zero", [2])
def test_one_worker_trains_what_plain_torch_trains(data: Path, zero: int | None) -> None:
    outcome = trained(Case(data, zero), 1)[0]
    assert_losses(outcome.losses, plain(Case(data)).losses, 1e-6)
    assert_weights(outcome.weights, plain(Case(data)).weights, 2e-5)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_sparse_tables_are_trained_as_by_torchs_own_lazy_adam(data: Path, workers: int, accumulation: int) -> None:
    case = Case(data, models=("crm",), sparse=True, accumulation=accumulation)
    first, *others = trained(case, workers)
    assert_losses(first.losses, plain(case).losses, 1e-6)
    assert_weights(first.weights, plain(case).weights, 2e-5)
    for other in others:
        assert_weights(other.weights, first.weights, 0)
    table, start = "crm.inputs.embedding.table.weight", plain(replace(case, steps=0)).weights
    still = (first.weights[table] == start[table]).all(1)[1:]  # without padding, which never moves
    assert 0 < still.sum() < len(still)  # what no batch named stayed where it was, without decay


@pytest.mark.parametrize("zero", [2, 3])
def test_a_head_that_is_not_tied_is_trained_too(data: Path, zero: int) -> None:
    case = Case(data, zero, tied=False)
    head = "llm.language_model.lm_head.weight"
    outcome = trained(case, 2)[0]
    assert head in outcome.weights
    assert head not in plain(Case(data)).weights
    assert_losses(outcome.losses, plain(case).losses, 1e-6)
    assert_weights(outcome.weights, plain(case).weights, 2e-5)


@pytest.mark.parametrize("zero", [2, 3])
def test_adapters_are_trained_and_nothing_frozen_leaves_the_engine(data: Path, zero: int) -> None:
    case = Case(data, zero, lora=True)
    outcome = trained(case, 2)[0]
    assert all("lora_" in name for name in outcome.weights if name.startswith("llm."))
    assert_losses(outcome.losses, plain(case).losses, 1e-6)
    assert_weights(outcome.weights, plain(case).weights, 2e-5)


def test_bf16_stays_close_to_fp32(data: Path) -> None:
    outcome = trained(Case(data, 2, precision="bf16"), 2)[0]
    for found, expected in zip(outcome.losses, plain(Case(data)).losses, strict=True):
        assert found == pytest.approx(expected, rel=0.03)
    # A weight may move by its rate in each of four steps: those that bf16 turns around at all are few.
    apart = [np.abs(value - plain(Case(data)).weights[name]) for name, value in outcome.weights.items()]
    assert max(value.max() for value in apart) < 2 * 4 * engines.LLM_RATE
    assert np.mean(np.concatenate([value.ravel() for value in apart]) > 2e-3) < 0.02


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_each_of_two_workers_holds_half_of_the_optimizers_state(data: Path, zero: int) -> None:
    whole = plain(Case(data)).elements
    assert whole == 2 * sum(value.size for value in plain(Case(data)).weights.values())
    for outcome in trained(Case(data, zero), 2):
        assert whole / 2 <= outcome.elements <= whole / 2 * 1.002  # parameters are padded to be cut evenly


@pytest.mark.parametrize("zero", FP32)
def test_training_starts_where_nothing_is_known(data: Path, zero: int | None) -> None:
    first = trained(Case(data, zero), 2)[0].losses[0]
    assert first["crm"] == pytest.approx(math.log(2), abs=0.05)
    assert first["llm"] == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize("zero", [None, 2])
def test_a_step_of_two_micro_batches_is_one_of_all_their_rows(data: Path, zero: int | None) -> None:
    outcome = trained(Case(data, zero, accumulation=2), 2)[0]
    assert_losses(outcome.losses, plain(Case(data)).losses, 1e-6)
    assert_weights(outcome.weights, plain(Case(data)).weights, 2e-5)


@pytest.mark.parametrize(
    "case",
    [
        Case(Path(), None, models=("crm",)),
        Case(Path(), None, models=("crm",), sparse=True),
        Case(Path(), 2, precision="bf16"),
        Case(Path(), 3, lora=True),
    ],
    ids=["torch", "torch with sparse tables", "ZeRO-2 in bf16", "LoRA on ZeRO-3"],
)
def test_going_on_from_a_checkpoint_equals_never_having_stopped(data: Path, tmp_path: Path, case: Case) -> None:
    case = replace(case, folder=data)
    never = trained(case, 2)[0]
    losses, weights, _ = worlds.run(2, engines.stop_and_go_on, case, tmp_path)[0]
    assert losses == never.losses[case.steps // 2 :]
    assert_weights(weights, never.weights, 0)


@pytest.mark.parametrize(("zero", "files"), [(None, 1), (2, 2), (3, 2)])
def test_code_in_any_file_of_a_checkpoint_is_refused_and_never_run(data: Path, tmp_path: Path, zero: int | None, files: int) -> None:
    ((saved, refused),) = worlds.run(1, engines.trapped, Case(data, zero, models=("llm",)), tmp_path)
    assert len(saved) == files
    assert refused == saved
    assert not (tmp_path / "marker").exists()


def test_a_checkpoint_of_adapters_holds_no_frozen_weight(data: Path, tmp_path: Path) -> None:
    worlds.run(1, engines.stop_and_go_on, Case(data, 2, lora=True, models=("llm",), steps=2), tmp_path)
    frozen = (data / "backbone" / "model.safetensors").stat().st_size
    saved = {path.name: path.stat().st_size for path in (tmp_path / "engine").iterdir()}
    assert len(saved) == 2
    assert sum(saved.values()) < frozen


@pytest.mark.parametrize("zero", [None, 2])
def test_running_means_are_the_same_on_all_workers_and_leave_the_engine(data: Path, zero: int | None) -> None:
    case = Case(data, zero, crm="din")
    first, second = trained(case, 2)
    mean = "crm.tower.activations.0.mean_W"
    assert np.abs(first.weights[mean]).max() > 0
    assert_weights(first.weights, second.weights, 0)
    assert_weights(first.weights, trained(replace(case, zero=None), 2)[0].weights, 2e-5)


def test_a_second_stage_trains_after_the_first_and_nothing_of_the_first_is_left(data: Path) -> None:
    outcome, left = worlds.run(1, engines.two_stages, Case(data, 3))[0]
    expected, _ = worlds.run(1, engines.two_stages, Case(data, None))[0]
    assert left == 0
    assert_losses(outcome.losses, expected.losses, 1e-6)
    assert_weights(outcome.weights, expected.weights, 1e-4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"zero_stage": 0}, "'bf16' needs zero_stage 1, 2 or 3"),
        ({"zero_stage": 1, "offload": "optimizer"}, "'optimizer' needs zero_stage 2 or 3, got 1"),
        ({"zero_stage": 2, "offload": "all"}, "'all' needs zero_stage 3, got 2"),
        ({"gradient_clipping": 0.0}, "gradient_clipping: expected a number > 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed_engine.Config(**keys)


def test_deepspeeds_json_says_what_the_configuration_says() -> None:
    found = deepspeed_engine.deepspeed_config(deepspeed_engine.Config(zero_stage=3, offload="all", gradient_clipping=0.5), 4, 8, 2)
    assert found["train_batch_size"] == 64
    assert found["train_micro_batch_size_per_gpu"] == 4
    assert found["gradient_accumulation_steps"] == 8
    assert found["gradient_clipping"] == 0.5
    assert found["bf16"] == {"enabled": True}
    assert found["zero_optimization"] == {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}


def test_offload_is_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(ConfigError, match=r"^train\.deepspeed\.offload: expected 'none' without GPU workers, .*, got 'all'$"):
        deepspeed_engine.Config(zero_stage=3, offload="all").require_device(gpu=False)
    deepspeed_engine.Config(zero_stage=3, offload="all").require_device(gpu=True)
    deepspeed_engine.Config().require_device(gpu=False)
