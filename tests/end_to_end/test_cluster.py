"""The pipeline as a submitted job on a cluster of two nodes."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.command import ROOT, SMALL, environment

pytestmark = pytest.mark.end_to_end
RAY = str(Path(sys.executable).with_name("ray"))


def with_token(temp: Path) -> dict[str, str]:
    """Return an environment in which every node and every client of the cluster knows its token."""
    return {**environment(temp), "RAY_AUTH_MODE": "token"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def node(temp: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node of two CPUs, with everything that it starts."""
    command = [RAY, "start", *arguments, "--num-cpus", "2", "--object-store-memory", "500000000", "--disable-usage-stats", "--block"]
    # Workers find the packages and `python` where the tests have theirs.
    found = {**with_token(temp), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (temp / "nodes.log").open("a") as log:
        process = subprocess.Popen(command, env=found, cwd=temp, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        # Asked politely, a node takes half a minute to end; nothing of these is needed again.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait(timeout=60)


def wait_for(port: int, log: Path) -> None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.5)
    pytest.fail(f"nothing listens on port {port}: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def dashboard(short_folder: Path) -> Iterator[str]:
    (short_folder / "ray").mkdir(exist_ok=True)
    subprocess.run([RAY, "get-auth-token", "--generate"], env=with_token(short_folder), capture_output=True, check=True)
    gcs, board, client, agent, other_agent, http, other_http = free_ports(7)
    url = f"http://127.0.0.1:{board}"
    head = ["--head", "--port", str(gcs), "--dashboard-port", str(board), "--ray-client-server-port", str(client)]
    agents = ["--dashboard-agent-grpc-port", str(agent), "--dashboard-agent-listen-port", str(http)]
    # Two nodes of one machine would share the folder of the uploaded code, and each removes it when it has no more use for it.
    other = [
        "--temp-dir",
        str(short_folder / "ray2"),
        "--dashboard-agent-grpc-port",
        str(other_agent),
        "--dashboard-agent-listen-port",
        str(other_http),
    ]
    with node(short_folder, *head, *agents):
        wait_for(board, short_folder / "nodes.log")
        with node(short_folder, "--address", f"127.0.0.1:{gcs}", *other):
            wait_for(other_http, short_folder / "nodes.log")
            yield url


def submit(temp: Path, dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", dashboard, "--working-dir", ".", "--", "python", "pipelines/full.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=with_token(temp), capture_output=True, text=True, timeout=600, check=False)


def test_a_submitted_job_runs_on_two_nodes(dashboard: str, short_folder: Path) -> None:
    output = short_folder / "job"
    # Two scoring actors of a CPU each, and what feeds them, are more than one node has.
    done = submit(short_folder, dashboard, "demo", "--output", str(output), "--score.cpus-per-actor", "1", *SMALL)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "succeeded" in done.stdout + done.stderr
    assert (output / "report" / "metrics.json").exists()


def test_a_relative_output_in_a_job_is_refused(dashboard: str, short_folder: Path) -> None:
    done = submit(short_folder, dashboard, "demo", "--output", "runs/job")
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
def test_who_has_no_token_can_neither_see_nor_change_anything(dashboard: str, method: str, path: str) -> None:
    body = b"{}" if method in ("POST", "PUT") else None
    request = urllib.request.Request(dashboard + path, body, {"Content-Type": "application/json"}, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 401


def test_a_run_shows_the_token_of_its_machine_without_being_told_to(dashboard: str, short_folder: Path) -> None:
    (address,) = set(re.findall(r"--address='([\d.]+:\d+)'", (short_folder / "nodes.log").read_text()))
    join = f"from pipelines import cluster; cluster.connect(cluster.Config(address='{address}')); print(cluster.described())"
    found = environment(short_folder)
    assert "RAY_AUTH_MODE" not in found
    done = subprocess.run([sys.executable, "-c", join], cwd=ROOT, env=found, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "4 CPUs and 0 GPUs on 2 node(s)", done.stderr[-2000:]
