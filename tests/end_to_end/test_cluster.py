"""The pipeline as a submitted job on two nodes that share no folder, its output in a bucket."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from components import artifacts, storage
from tests.end_to_end.command import FEW, ROOT, SMALL, environment
from tests.faults import same
from tests.nodes import RAY, free_ports, node, wait_for, wait_for_nodes, with_token
from tests.object_store import new_bucket

pytestmark = pytest.mark.end_to_end
STAGES = {"tables", "backbone", "prompts", "checkpoints", "scores", "policy", "ensemble", "report"}
WRITTEN = ("*.parquet", "_manifest.json", "checkpoint_*", "training_log.jsonl", "policy.json")  # by a run


@dataclass(frozen=True)
class Cluster:
    """Two running nodes."""

    dashboard: str  # where jobs are submitted
    home: Path  # of who submits; the nodes' own lie below it
    nodes: tuple[Path, Path]


@dataclass(frozen=True)
class Job:
    """A finished job: its output and what it said."""

    output: str
    said: str


@pytest.fixture(scope="module")
def cluster(short_folder: Path, s3: dict[str, str]) -> Iterator[Cluster]:
    """Two nodes, which find the bucket by their environment."""
    home = short_folder / "c"
    home.mkdir()
    subprocess.run([RAY, "get-auth-token", "--generate"], env=with_token(home), capture_output=True, check=True)
    gcs, board, client, agent, other_agent, http, other_http = free_ports(7)
    head = ["--head", "--port", str(gcs), "--dashboard-port", str(board), "--ray-client-server-port", str(client)]
    agents, others = (
        ["--dashboard-agent-grpc-port", str(grpc), "--dashboard-agent-listen-port", str(port)]
        for grpc, port in ((agent, http), (other_agent, other_http))
    )
    log = home / "nodes.log"
    with node(home / "a", log, *head, *agents):
        wait_for(gcs, log)
        with node(home / "b", log, "--address", f"127.0.0.1:{gcs}", *others):
            wait_for(board, log)
            wait_for(other_http, log)
            wait_for_nodes(2, board, home, log)
            yield Cluster(f"http://127.0.0.1:{board}", home, (home / "a", home / "b"))


def submit(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--", "python", "pipelines/full.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=with_token(cluster.home), capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> Job:
    output = f"{new_bucket()}/runs/demo"
    # Two scoring actors of a CPU each, and what feeds them, are more than one node has.
    done = submit(cluster, "demo", "--output", output, *SMALL, *FEW, "--score.llm-actors", "2", "--score.cpus-per-actor", "1")
    assert done.returncode == 0, (cluster.home / "nodes.log").read_text()[-2000:] + done.stdout[-4000:] + done.stderr[-2000:]
    return Job(output, done.stdout + done.stderr)


def test_a_submitted_job_runs_on_two_nodes_and_leaves_all_in_the_bucket(job: Job, cluster: Cluster) -> None:
    assert "succeeded" in job.said
    for stage in STAGES:
        artifacts.verify(f"{job.output}/{stage}")
    fs, output = storage.filesystem(job.output)
    assert {path.removeprefix(f"{output}/").split("/")[0] for path in fs.find(output)} == {*STAGES, "recorded.json", ".lock"}
    for home in cluster.nodes:
        (copies,) = home.glob("tmp/tandem-copies-*")
        assert list(copies.glob("*/model.safetensors"))  # each node worked, with its own copy of the models
        records = home / "tandem-runs"
        left = [path for kind in WRITTEN for path in home.rglob(kind)]
        assert [path for path in left if not (path.is_relative_to(copies) or path.is_relative_to(records))] == []


def test_a_job_comes_to_what_a_run_on_this_machine_comes_to(job: Job, small: Path, tmp_path: Path) -> None:
    fs, output = storage.filesystem(job.output)
    fs.get(f"{output}/", f"{tmp_path}/", recursive=True)
    assert same.differences(tmp_path, small) == []  # rows by key, weights and figures within same.TOLERANCE


def test_a_job_says_where_its_runs_are_recorded(job: Job, cluster: Cluster) -> None:
    store = cluster.nodes[0] / "tandem-runs" / "mlflow.db"  # in the home of the node that drives
    assert f"runs are recorded in sqlite:///{store} on this machine; --tracking.uri names another store" in job.said
    assert {"demo", *(f"demo/{stage}" for stage in STAGES)} <= same.recorded(store).keys()


def test_the_secret_of_the_store_is_in_no_log_nor_record(job: Job, cluster: Cluster, s3: dict[str, str]) -> None:
    secret = s3["AWS_SECRET_ACCESS_KEY"]
    assert secret not in job.said
    files = [path for path in cluster.home.rglob("*") if path.is_file() and path.stat().st_size < 1 << 26]
    assert len(files) > 50
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_relative_output_in_a_job_is_refused(cluster: Cluster) -> None:
    done = submit(cluster, "demo", "--output", "runs/job")
    assert done.returncode != 0
    assert "expected an absolute path, a URI, or something in the upload" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/"),
        ("GET", "/api/serve/applications/"),
        ("PUT", "/api/serve/applications/"),
        ("DELETE", "/api/serve/applications/"),
        ("GET", "/nodes?view=summary"),
    ],
)
def test_who_has_no_token_can_neither_see_nor_change_anything(cluster: Cluster, method: str, path: str) -> None:
    body = b"{}" if method in ("POST", "PUT") else None
    request = urllib.request.Request(cluster.dashboard + path, body, {"Content-Type": "application/json"}, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 401


def test_a_run_shows_the_token_of_its_machine_without_being_told_to(cluster: Cluster) -> None:
    (address,) = set(re.findall(r"--address='([\d.]+:\d+)'", (cluster.home / "nodes.log").read_text()))
    join = f"from pipelines import cluster; cluster.connect(cluster.Config(address='{address}')); print(cluster.described())"
    found = environment(cluster.home)
    assert "RAY_AUTH_MODE" not in found
    done = subprocess.run([sys.executable, "-c", join], cwd=ROOT, env=found, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "4 CPU slots and 0 GPUs on 2 node(s)", done.stderr[-2000:]
