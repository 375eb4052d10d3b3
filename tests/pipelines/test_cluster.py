"""Ray as the pipeline uses it: repeatable data, and no waiting for what can never be placed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from components.errors import ArtifactError, ConfigError, ResourceError
from components.features.tables import read_samples
from pipelines import cluster, command_line, score, train
from pipelines.cluster import Need
from pipelines.recipes import RECIPES
from tests.pipelines.local_ray import local_ray


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with local_ray():
        yield


def nodes(*resources: dict[str, float], dead: int = 0) -> list[dict[str, Any]]:
    return [{"Alive": number >= dead, "Resources": node} for number, node in enumerate(resources)]


def lacking(monkeypatch: pytest.MonkeyPatch, found: list[dict[str, Any]], *needs: Need) -> list[str]:
    monkeypatch.setattr(ray, "nodes", lambda: found)
    return cluster.lacking(needs)


def test_workers_that_fit_on_one_node_or_on_several_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need("training workers", 4, {"CPU": 2.0, "GPU": 1.0})
    assert lacking(monkeypatch, nodes({"CPU": 8.0, "GPU": 4.0}), need) == []
    assert lacking(monkeypatch, nodes(*[{"CPU": 2.0, "GPU": 1.0}] * 4), need) == []


def test_resources_spread_over_nodes_do_not_add_up_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lacking(monkeypatch, nodes({"CPU": 1.0}, {"CPU": 1.0}), Need("scoring actors", 1, {"CPU": 2.0}))
    assert found == ["scoring actors need 1 x {'CPU': 2.0}, 0 can be placed"]


def test_the_scarcest_resource_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lacking(monkeypatch, nodes({"CPU": 64.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 8.0}), Need("workers", 4, {"CPU": 2.0, "GPU": 0.5}))
    assert found == ["workers need 4 x {'CPU': 2.0, 'GPU': 0.5}, 3 can be placed"]


def test_a_dead_node_places_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacking(monkeypatch, nodes({"CPU": 8.0}, {"CPU": 1.0}, dead=1), Need("workers", 2, {"CPU": 1.0})) != []


def test_a_resource_of_which_nothing_is_asked_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacking(monkeypatch, nodes({"CPU": 2.0}), Need("actors", 2, {"CPU": 1.0, "GPU": 0.0})) == []


def test_what_a_stage_needs_is_placed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    two = nodes({"CPU": 3.0}, {"CPU": 2.0})
    assert lacking(monkeypatch, two, Need("actors", 4, {"CPU": 1.0}), Need("readers", 1, {"CPU": 1.0})) == []
    found = lacking(monkeypatch, two, Need("actors", 4, {"CPU": 1.0}), Need("readers", 2, {"CPU": 0.75}))
    assert found == ["readers need 2 x {'CPU': 0.75}, 1 can be placed"]


@pytest.mark.parametrize("recipe", ["demo", "ml-100k", "ml-1m-collm", "amazon", "tabular"])
def test_a_recipe_for_small_machines_fits_on_a_node_of_two_cpus(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: nodes({"CPU": 2.0}))
    for needs in command_line.needs(RECIPES[recipe]()).values():
        assert lacking(monkeypatch, nodes({"CPU": 2.0}), *needs) == []


@pytest.mark.parametrize(("gpus", "share", "places"), [(1.0, 0.1, 10), (2.0, 0.3, 6), (7.0, 0.7, 10), (3.0, 0.05, 60)])
def test_shares_of_a_gpu_are_counted_exactly(monkeypatch: pytest.MonkeyPatch, gpus: float, share: float, places: int) -> None:
    found = nodes({"CPU": 64.0, "GPU": gpus})
    assert lacking(monkeypatch, found, Need("actors", places, {"GPU": share})) == []
    assert lacking(monkeypatch, found, Need("actors", places + 1, {"GPU": share})) != []


@pytest.mark.parametrize(
    ("use_gpu", "gpus", "expected"),
    [
        ("auto", (3.0,), True),
        ("auto", (1.5, 1.5), True),
        ("auto", (1.5, 1.0), False),
        ("auto", (1.0, 1.0, 1.0), False),  # three together, and room for one worker nowhere
        ("yes", (0.0,), True),
        ("no", (8.0,), False),
    ],
)
def test_gpus_are_used_where_every_worker_and_every_actor_finds_a_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], use_gpu: Any, gpus: tuple[float, ...], expected: bool
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: nodes(*({"CPU": 4.0, "GPU": count} for count in gpus)))
    assert train.wants_gpu(train.Config(workers=2, gpus_per_worker=1.5, use_gpu=use_gpu)) is expected
    assert score.wants_gpu(score.Config(llm_actors=2, gpus_per_actor=1.5, use_gpu=use_gpu)) is expected
    said = capsys.readouterr().err
    assert ("no GPU is used: training workers need 2 x {'CPU': 1, 'GPU': 1.5}" in said) == (use_gpu == "auto" and not expected)


@pytest.mark.parametrize("gib", [0.0, 0.09, 1025.0, float("nan")])
def test_an_impossible_object_store_is_refused(gib: float) -> None:
    with pytest.raises(ConfigError, match=r"object_store_gib: expected 0\.1 to 1024, got"):
        cluster.Config(object_store_gib=gib)


def test_a_cluster_with_tokens_is_not_waited_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(ConfigError, match="expected the cluster's token in"):
        cluster.connect(cluster.Config(address=f"127.0.0.1:{listening.getsockname()[1]}"))


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_a_run_that_can_never_be_placed_is_refused_with_what_the_cluster_has() -> None:
    cluster.require({"checkpoints": [Need("training workers", 4, {"CPU": 1.0})], "scores": [Need("actors", 4, {"CPU": 1.0})]})
    with pytest.raises(ResourceError) as error:
        cluster.require(
            {"checkpoints": [Need("training workers", 2, {"CPU": 1.0, "GPU": 1.0})], "scores": [Need("actors", 5, {"CPU": 1.0})]}
        )
    assert str(error.value) == (
        "the cluster has 4 CPU slots and 0 GPUs on 1 node(s), which is not enough for "
        "checkpoints: training workers need 2 x {'CPU': 1.0, 'GPU': 1.0}, 0 can be placed; "
        "scores: actors need 5 x {'CPU': 1.0}, 4 can be placed"
    )


def test_only_what_lies_on_a_disk_must_be_seen_by_every_node(tmp_path: Path) -> None:
    away = replace(RECIPES["demo"](), data="s3://bucket/raw", output="s3://bucket/run")
    assert command_line.local_folders(away) == []
    assert command_line.local_folders(replace(away, llm=replace(away.llm, path="meta-llama/Llama-2-7b"))) == []
    here = replace(away, output=f"{tmp_path}/run", data=f"file://{tmp_path}/raw", llm=replace(away.llm, path=f"{tmp_path}/llama"))
    assert command_line.local_folders(here) == [f"{tmp_path}/run", f"{tmp_path}/raw", f"{tmp_path}/llama"]


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_a_local_folder_that_a_node_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (node,) = ray.nodes()
    cluster.require_shared([f"{tmp_path}/none"])  # on one node, tasks see what the driver sees
    monkeypatch.setattr(ray, "nodes", lambda: [node, {**node, "NodeManagerHostname": "another"}])
    cluster.require_shared([str(tmp_path)])
    with pytest.raises(ResourceError, match=rf"expected {tmp_path}/none on every node, {node['NodeManagerHostname']} does not see it"):
        cluster.require_shared([str(tmp_path), f"{tmp_path}/none"])


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_a_node_that_is_lost_or_does_not_answer_ends_the_run_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (node,) = ray.nodes()
    lost = {**node, "NodeID": "1" * len(node["NodeID"]), "NodeManagerHostname": "another"}
    monkeypatch.setattr(ray, "nodes", lambda: [node, lost])
    with pytest.raises(ResourceError, match=rf"could not ask node another whether it sees {tmp_path}: TaskUnschedulableError"):
        cluster.require_shared([str(tmp_path)])
    monkeypatch.setattr(ray, "nodes", lambda: [node, node])
    monkeypatch.setattr(cluster, "LOOK_TIMEOUT_S", 0.0)
    with pytest.raises(ResourceError, match=rf"could not ask node {node['NodeManagerHostname']} .*: GetTimeoutError"):
        cluster.require_shared([str(tmp_path)] * 200_000)  # for which it needs more than no time


class Elsewhere:
    """A data set whose tasks write three of its rows, and the rest on a machine that nobody else sees."""

    def write_parquet(self, path: str, **_: Any) -> None:
        Path(path).mkdir()
        pq.write_table(pa.table({"id": [1, 2]}), f"{path}/part-0.parquet")
        pq.write_table(pa.table({"id": [3]}), f"{path}/part-1.parquet")


class Nowhere:
    """A data set whose tasks leave nothing that the driver sees."""

    def write_parquet(self, path: str, **_: Any) -> None:
        Path(path).mkdir()


def test_rows_that_are_not_in_the_files_were_not_written(tmp_path: Path) -> None:
    some: Any = Elsewhere()
    none: Any = Nowhere()
    cluster.write_parts(some, str(tmp_path / "whole"), 3)
    with pytest.raises(ArtifactError, match=rf"expected 1,004 rows in the Parquet files below {tmp_path}/part, found 3"):
        cluster.write_parts(some, str(tmp_path / "part"), 1_004)
    with pytest.raises(ArtifactError, match=r"expected 3 rows .* found 0"):
        cluster.write_parts(none, str(tmp_path / "none"), 3)
    cluster.write_parts(none, str(tmp_path / "empty"), 0)


@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_parts_are_read_back_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    def late(table: pa.Table) -> pa.Table:
        time.sleep(0.5 if table["id"][0].as_py() < 300 else 0.0)  # the first blocks are ready last
        return table

    written = cluster.map_tables(ray.data.range(1_000, override_num_blocks=12), late)
    cluster.write_parts(written, str(tmp_path / "parts"), 1_000)
    names = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert len(names) >= 12
    assert [name[:12] for name in names] == [f"part-{number:06}-" for number in range(len(names))]
    assert read_samples(str(tmp_path / "parts"))["id"].to_pylist() == list(range(1_000))
    assert [row["id"] for row in cluster.read_parts(str(tmp_path / "parts")).take_all()] == list(range(1_000))
