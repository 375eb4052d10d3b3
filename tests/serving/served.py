"""The endpoint as users start it, in a process of its own with its own Ray: what faults are tried on."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.command import ROOT, environment
from tests.nodes import free_ports

START_S, STOP_S = 300.0, 40.0
ITEMS = [{"id": f"i{row}"} for row in range(24)]
BOTH = {"user": {"id": "u1"}, "candidates": ITEMS}  # of the small ensemble: some candidates go to either arm


@dataclass(frozen=True)
class Answer:
    """What came back, and when."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    seconds: float
    asked_s: float  # on time.monotonic's clock


@dataclass(frozen=True)
class Served:
    """A running endpoint."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def post(self, path: str, body: Any, timeout_s: float = 30.0) -> Answer:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        return self._ask(request, timeout_s)

    def get(self, path: str, timeout_s: float = 30.0) -> Answer:
        return self._ask(urllib.request.Request(self.url + path), timeout_s)

    def _ask(self, request: urllib.request.Request, timeout_s: float) -> Answer:
        started_s = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                status, content, headers = response.status, response.read(), dict(response.headers)
        except urllib.error.HTTPError as error:
            status, content, headers = error.code, error.read(), dict(error.headers)
        try:
            body = json.loads(content)
        except ValueError:
            body = {"text": content.decode(errors="replace")}
        return Answer(status, body, headers, time.monotonic() - started_s, started_s)

    def pids(self, name: str) -> list[int]:
        """Return the processes of a deployment, or of an actor such as `ProxyActor`."""
        found: list[int] = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child.pid)
        return found

    def wait_until(self, true: Any, what: str, timeout_s: float = 60.0) -> float:
        """Wait and return how long it took."""
        started_s = time.monotonic()
        while time.monotonic() < started_s + timeout_s:
            with contextlib.suppress(OSError):
                if true():
                    return time.monotonic() - started_s
            time.sleep(0.1)
        pytest.fail(f"not within {timeout_s:.0f} s: {what}\n{self.log.read_text()[-3000:]}")


@contextlib.contextmanager
def served(temp: Path, model: Path | str, *settings: str) -> Iterator[Served]:
    """Start the endpoint, and end everything that it started. `temp` must have a short path."""
    (temp / "ray").mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    log = temp / f"serve-{port}.log"
    command = [sys.executable, "-m", "serving.local", "--model", str(model), "--port", str(port), f"events=sqlite:///{temp}/events.db"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, *settings], cwd=ROOT, env=environment(temp), stdout=file, stderr=file, start_new_session=True)
    found = Served(f"http://127.0.0.1:{port}", process, log)
    try:
        found.wait_until(lambda: process.poll() is not None or b"serving " in log.read_bytes(), "the endpoint starts", START_S)
        assert process.poll() is None, log.read_text()[-3000:]
        yield found
    finally:
        ended = end(process)
    assert ended, f"not within {STOP_S:.0f} s: the endpoint stops\n{log.read_text()[-3000:]}"


def end(process: subprocess.Popen[bytes]) -> bool:
    """Stop a process, then whatever is left of it by force; tell whether it stopped by itself.

    Not as Ctrl-C does: where a script started these tests in the background, SIGINT is ignored by all that they start.
    """
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    ended = process.poll() is not None
    for left in [process, *children]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    return ended
