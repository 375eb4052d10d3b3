from __future__ import annotations

import pytest

from components.errors import ConfigError
from components.joint.model import LossWeights
from components.joint.plan import Best, Position, Stage, StageConfig, learning_rate


def config(**keys) -> StageConfig:
    return StageConfig(**{"weights": LossWeights(llm=1.0), "epochs": 1, "micro_batch": 4, **keys})


# 10 steps with a fifth of them to warm up: 1/2, 1, then 8 steps down.
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, *[1.0] * 8]),
        ("linear", [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine", [0.5, 1.0, 1.0, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602]),
    ],
)
def test_the_rate_rises_to_its_peak_and_falls_as_scheduled(schedule: str, expected: list[float]) -> None:
    stage = config(schedule=schedule, warmup_share=0.2)
    assert [learning_rate(stage, step, 10) for step in range(10)] == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert learning_rate(config(warmup_share=0.0), 0, 10) == 1.0
    assert learning_rate(config(warmup_share=0.9), 0, 1) == 1.0  # a single step is all warm-up, and full


def test_a_position_survives_its_json() -> None:
    position = Position(2, 1, 30, 130, 1, {"crm": Best(0.75, "warmup", 3), "llm": Best(0.7, "joint", 1)})
    assert Position.from_json(position.to_json()) == position
    assert Position.from_json(Position().to_json()) == Position()


def test_a_stage_trains_what_its_loss_weighs_and_the_llm_leads() -> None:
    all_weights = (LossWeights(crm=1.0), LossWeights(1.0, 1.0, 0.1), LossWeights(llm=1.0))
    stages = [Stage("", config(weights=weights), "") for weights in all_weights]
    assert [stage.models for stage in stages] == [("crm",), ("crm", "llm"), ("llm",)]
    assert [stage.leader for stage in stages] == ["crm", "llm", "llm"]


@pytest.mark.parametrize(
    "keys",
    [
        {"epochs": -1},
        {"micro_batch": 0},
        {"accumulation": 0},
        {"patience": 0},
        {"crm_learning_rate": 0.0},
        {"llm_learning_rate": -1e-3},
        {"weight_decay": -0.1},
        {"warmup_share": 1.0},
    ],
)
def test_an_impossible_stage_is_refused_with_its_key(keys: dict) -> None:
    (key,) = keys
    with pytest.raises(ConfigError, match=rf"^{key}: expected .*, got {keys[key]}$"):
        config(**keys)
