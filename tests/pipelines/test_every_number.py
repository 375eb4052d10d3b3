"""Every number that can be typed: 0, a negative one and a huge one are each refused with their key, or meant to be accepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from components.errors import ConfigError
from pipelines.config import RunConfig
from pipelines.recipes import amazon, demo, ml_1m, ml_100k, tabular

HUGE = 10**12
# What 0 means is said in the key's help, or goes without saying: none, not at all, from the start.
ZERO = {
    *("seed", "dataset.seed", "tiny.seed", "llm.seed", "tune.seed", "evaluate.seed"),
    *("dataset.new_items", "dataset.told_worth", "dataset.untold_worth", "dataset.taste", "dataset.k_core", "dataset.rating_min"),
    *("prepare.min_history", "prepare.max_bad_fraction", "prompts.history_length"),
    *("crm.fold_in.size", "crm.unknown_rate", "crm.user_unknown_rate", "crm.dropout", "crm.dcnv2.rank", "llm.lora_dropout"),
    *("train.warmup.weights.llm", "train.warmup.weights.alignment", "train.joint.weights.alignment"),
    *("train.llm.weights.crm", "train.llm.weights.alignment", "train.max_failures", "train.checkpoint_every_s"),
    *(f"train.{stage}.{key}" for stage in ("warmup", "joint", "llm") for key in ("epochs", "weight_decay", "warmup_share")),
}
NEGATIVE = {"dataset.rating_min"}
BOUNDED = {
    *("seed", "dataset.seed", "tiny.seed", "llm.seed", "tune.seed", "evaluate.seed"),
    *("dataset.users", "dataset.items", "dataset.interactions", "dataset.new_items", "dataset.positive_above", "dataset.rating_min"),
    *("prepare.train_fraction", "prepare.valid_fraction", "prepare.max_bad_fraction", "prompts.max_tokens"),
    *("crm.unknown_rate", "crm.user_unknown_rate", "crm.dropout", "llm.lora_dropout", "tiny.heads"),
    *("train.warmup.weights.llm", "train.warmup.weights.alignment", "train.llm.weights.alignment", "train.max_failures"),
    *(f"train.{stage}.warmup_share" for stage in ("warmup", "joint", "llm")),
    *("tune.max_llm_share", "cluster.object_store_gib"),
}
FREE = {
    "train.deepspeed.zero_stage",  # a choice, which the command line checks
    "prepare.expected_rows",  # counts that a protocol promises: others are a run that ends after its first stage
}


def numbers(config: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        key, value = f"{place}{field.name}", getattr(config, field.name)
        if is_dataclass(value):
            yield from numbers(value, f"{key}.")
        elif not isinstance(value, bool) and isinstance(value[0] if isinstance(value, tuple) and value else value, (int, float)):
            yield key, value


def changed(config: Any, key: str, value: Any) -> Any:
    name, _, rest = key.partition(".")
    return replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


def refusal(config: RunConfig, key: str, number: int) -> str | None:
    value = dict(numbers(config))[key]
    new = (type(value[0])(number),) * len(value) if isinstance(value, tuple) else type(value)(number)
    try:
        changed(config, key, new)
    except ConfigError as error:
        return str(error)
    return None


CASES = {(key, config.recipe if key.startswith("dataset.") else ""): config for config in (tabular(), amazon(), ml_1m(), ml_100k(), demo())
         for key, _ in numbers(config)}  # fmt: skip


@pytest.mark.parametrize(("key", "recipe"), sorted(CASES), ids=str)
def test_a_number_is_refused_unless_it_is_meant_to_be_accepted(key: str, recipe: str) -> None:
    if key in FREE:
        return
    for number, accepted in ((0, key in ZERO), (-1, key in NEGATIVE), (HUGE, key not in BOUNDED)):
        said = refusal(CASES[key, recipe], key, number)
        assert (said is None) == accepted, f"{key} = {number}"
        assert said is None or key.rsplit(".", 1)[-1] in said, "an error names its key"


def test_no_list_names_a_key_that_is_not_there() -> None:
    assert {key for key, _ in CASES} >= ZERO | NEGATIVE | BOUNDED | FREE
