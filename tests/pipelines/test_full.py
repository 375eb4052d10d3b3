"""Names of runs: a hash of everything that their content depends on, so that nothing else's leftovers are ever gone on with."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.datasets.tabular import Tabular
from pipelines import full
from pipelines.config import READERS, RunConfig
from pipelines.recipes import demo, tabular

STAGES = ["tables", "backbone", "prompts", "checkpoints", "scores", "policy", "ensemble", "report"]


def names(config: RunConfig, output: str = "/out") -> dict[str, str]:
    tables = READERS[type(config.dataset)](config.dataset).read(config.data or "")
    return full.fingerprints(full.chain(config, output, tables))


def changed(config: RunConfig, other: RunConfig) -> list[str]:
    before, after = names(config), names(other)
    return [stage for stage in STAGES if before[stage] != after[stage]]


def with_train(**keys: Any) -> RunConfig:
    return replace(demo(), train=replace(demo().train, **keys))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (with_train(warmup=replace(demo().train.warmup, crm_learning_rate=0.011)), STAGES[3:]),
        (replace(demo(), seed=2), STAGES[2:]),
        (replace(demo(), tune=replace(demo().tune, trials=81)), ["policy", "ensemble", "report"]),
        (replace(demo(), dataset=replace(demo().dataset, seed=2)), STAGES),  # pyright: ignore[reportCallIssue]
        (with_train(max_failures=0, checkpoint_every_s=1.0), []),  # how it is done, not what comes out
        (replace(demo(), output="/elsewhere", dry_run=True), []),
    ],
    ids=["a learning rate", "the seed", "the search", "the generated data", "how often it is saved", "where it goes"],
)
def test_a_changed_key_renames_the_stages_that_depend_on_it(other: RunConfig, expected: list[str]) -> None:
    assert changed(demo(), other) == expected


def test_another_version_of_the_code_renames_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(demo())
    monkeypatch.setattr(full, "VERSION", "99.0.0")
    assert not set(before.values()) & set(names(demo()).values())


def test_changed_raw_data_renames_every_stage(tmp_path: Path) -> None:
    orders = tmp_path / "orders.csv"
    orders.write_text("user_id,item_id,rating,timestamp\nu1,i1,5,1\n")
    config = replace(tabular(), dataset=Tabular.Config(interactions="orders.csv"), data=str(tmp_path))
    before = names(config)
    assert names(config) == before
    as_it_was = orders.stat()
    orders.write_text("user_id,item_id,rating,timestamp\nu1,i1,4,1\n")  # as many bytes
    assert not set(before.values()) & set(names(config).values())
    orders.write_text("user_id,item_id,rating,timestamp\nu1,i1,5,1\nu1,i2,5,1\n")
    os.utime(orders, ns=(as_it_was.st_atime_ns, as_it_was.st_mtime_ns))  # the time alone does not decide
    assert not set(before.values()) & set(names(config).values())
