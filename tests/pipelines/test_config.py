"""What a configuration refuses as a whole, before anything is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.errors import ConfigError
from components.joint import alignment, deepspeed_engine
from components.joint.model import LossWeights
from components.llm import config as llm_config
from pipelines.config import RunConfig
from pipelines.recipes import demo


def with_train(config: RunConfig, **keys: Any) -> RunConfig:
    return replace(config, train=replace(config.train, **keys))


def test_offload_without_gpu_workers_is_refused_at_once() -> None:
    offload = deepspeed_engine.Config(offload="optimizer")
    with pytest.raises(ConfigError, match=r"^train\.deepspeed\.offload: expected 'none' without GPU workers, .*, got 'optimizer'$"):
        with_train(demo(), deepspeed=offload, use_gpu="no")
    with_train(demo(), deepspeed=offload, use_gpu="auto")  # the cluster decides


@pytest.mark.parametrize("pair", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_an_alignment_of_layers_that_the_models_lack_is_refused_at_once(pair: tuple[int, int]) -> None:
    said = rf"^train\.alignment\.pairs: expected LLM blocks 0 to 1 and CRM layers 0 to 2, got \({pair[0]}, {pair[1]}\)$"
    with pytest.raises(ConfigError, match=said):
        with_train(demo(), alignment=alignment.Config(pairs=((1, 2), pair)))


def test_of_a_model_that_was_not_read_yet_only_the_blocks_are_unknown() -> None:
    hub = replace(demo(), llm=llm_config.Config(path="some/model", revision="0" * 40))
    with_train(hub, alignment=alignment.Config(pairs=((31, 2),)))
    for pair in ((-1, 0), (31, 3)):
        with pytest.raises(ConfigError, match=r"^train\.alignment\.pairs: expected LLM blocks from 0 and CRM layers 0 to 2"):
            with_train(hub, alignment=alignment.Config(pairs=(pair,)))


@pytest.mark.parametrize("name", ["joint", "llm"])
def test_a_stage_without_samples_is_refused_and_none_needs_none(name: str) -> None:
    without = replace(demo().prompts, **{f"{name}_samples": 0})
    with pytest.raises(ConfigError, match=rf"^prompts\.{name}_samples: expected 1 or more where train\.{name}\.epochs is \d, got 0$"):
        replace(demo(), prompts=without)
    replace(with_train(demo(), **{name: replace(getattr(demo().train, name), epochs=0)}), prompts=without)


def test_a_warm_up_of_the_llm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^train\.warmup\.weights\.llm: expected 0, the warm-up's samples are no prompts; got 1"):
        with_train(demo(), warmup=replace(demo().train.warmup, weights=LossWeights(llm=1.0)))


def test_prompts_that_the_tiny_model_cannot_read_are_refused_with_the_key_that_makes_it_longer() -> None:
    long = replace(demo().prompts, max_tokens=2048)
    with pytest.raises(ConfigError, match=r"^prompts\.max_tokens: expected at most 1024, .* \(--tiny\.max-positions\), got 2048$"):
        replace(demo(), prompts=long)
    replace(demo(), prompts=long, tiny=replace(demo().tiny, max_positions=2048))
    replace(demo(), prompts=long, llm=llm_config.Config(path="some/model", revision="0" * 40))
