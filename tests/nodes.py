"""Nodes of Ray clusters, as `ray start` starts them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.command import environment

START_S = 120.0  # for a node, on a machine that other tests keep busy
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
def node(home: Path, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node of two CPUs, with everything that it starts, in a home, a working folder and temporary files of its own."""
    (home / "tmp").mkdir(parents=True)
    shutil.copytree(log.parent / ".ray", home / ".ray")  # the token
    places = ["--temp-dir", str(home / "ray"), "--object-store-memory", "500000000"]
    command = [RAY, "start", *arguments, *places, "--num-cpus", "2", "--disable-usage-stats", "--block"]
    # Workers find the packages and `python` where the tests have theirs, and give way to no other test. A node keeps as many
    # idle ones as it has CPUs: two would be started anew all the time.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    workers = {"RAY_worker_niceness": "0", "RAY_num_workers_soft_limit": "4"}
    # On a machine that other tests keep busy: a node dies of an agent that takes half a minute to start, or of silence.
    patience = {"RAY_agent_register_timeout_ms": "120000", "RAY_health_check_failure_threshold": "20"}
    found = {**with_token(home), **workers, **patience, "PATH": path, "TMPDIR": str(home / "tmp")}
    with log.open("a") as file:
        process = subprocess.Popen(command, env=found, cwd=home, stdout=file, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        # Asked politely, a node takes half a minute to end; nothing of these is needed again.
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait(timeout=60)


def wait_for_nodes(count: int, dashboard: int, home: Path, log: Path) -> None:
    """Wait until a cluster counts so many nodes that are alive; whoever asks needs the token in `home`."""
    token = (home / ".ray" / "auth_token").read_text().strip()
    request = urllib.request.Request(f"http://127.0.0.1:{dashboard}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"})
    deadline_s = time.monotonic() + START_S
    found: list[str] = []
    while time.monotonic() < deadline_s:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = [node["raylet"]["state"] for node in json.load(answer)["data"]["summary"]]
        if found.count("ALIVE") == count:
            return
        time.sleep(0.5)
    pytest.fail(f"expected {count} nodes, found {found}: {log.read_text()[-2000:]}")


def wait_for(port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.5)
    pytest.fail(f"nothing listens on port {port}: {log.read_text()[-2000:]}")
