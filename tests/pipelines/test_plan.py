"""A dry run: what it needs, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.datasets import movielens
from components.datasets.movielens import MovieLens1m
from components.errors import ConfigError
from components.joint import deepspeed_engine
from pipelines import full
from pipelines.config import RunConfig
from pipelines.interruption import Interruption
from pipelines.recipes import corella, demo, ml_1m

NOBODY = Interruption.__new__(Interruption)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of this one process, without a GPU: nothing is started for a plan."""
    monkeypatch.setattr(full.cluster, "connect", lambda config: None)
    monkeypatch.setattr(full.cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    monkeypatch.setattr(full.cluster.ray, "cluster_resources", lambda: {"CPU": 4.0})


def planned(config: RunConfig, folder: Path) -> None:
    full.run(replace(config, output=str(folder / "run"), dry_run=True), NOBODY)


def test_a_plan_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned(corella(), tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("data: none given (--data), so nothing can be reused\nPlan of corella -> ")
    assert said.count("to run") == 7
    assert said.count('"stage": 3') == 2
    assert "the cluster has 4 CPU slots and 0 GPUs on 1 node(s): NOT enough: training workers need 4 x {'CPU': 4, 'GPU': 1.0}" in said


def test_a_plan_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(movielens, "fetch", lambda *_: pytest.fail("it fetched"))
    planned(replace(ml_1m(), dataset=MovieLens1m.Config(download=True), data=str(tmp_path)), tmp_path)
    assert capsys.readouterr().out.startswith(f"data: none in {tmp_path} yet, a run downloads it (--dataset.download), so nothing")


def test_a_plan_for_offload_on_a_cluster_without_gpus_is_refused(tmp_path: Path) -> None:
    offload = deepspeed_engine.Config(offload="optimizer")
    with pytest.raises(ConfigError, match=r"^train\.deepspeed\.offload: expected 'none' without GPU workers"):
        planned(replace(demo(), train=replace(demo().train, deepspeed=offload)), tmp_path)
