"""What a configuration refuses as a whole, before anything is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.errors import ConfigError
from components.joint import alignment, deepspeed_engine
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
