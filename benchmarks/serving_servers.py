"""The servers under comparison: each in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from serving_clients import Bounds
from serving_yardsticks import HOST, percentiles_ms

ROOT = Path(__file__).parent.parent
START_S, STOP_S = 120.0, 30.0
MLFLOW, MLFLOW_BARE = "MLflow's scoring server, CRM only", "MLflow's scoring server, CRM, a row a request"
EMPTY = "empty Serve app"
UNCACHED = "uncached"
ALONE = "the models in-process"
SERVERS = {  # what is started, and the title that the reader meets
    "endpoint": "endpoint",
    UNCACHED: "endpoint without the cache of histories",
    "neighbours": "endpoint beside Serve applications that do less",
    "unserved": "the endpoint's app on uvicorn, no Serve",
    "plain": "plain FastAPI + uvicorn, CRM",
    "mlflow": MLFLOW,
    "mlflow_bare": MLFLOW_BARE,
}
OTHERS = ("unserved", "plain", "mlflow", "mlflow_bare")


class Alone:
    """The models called in a process of their own, without HTTP."""

    def __init__(self, ensemble: str, temp: Path) -> None:
        command = yardstick("arms", ensemble, 0, temp)
        self.process = subprocess.Popen(
            command,
            env=environment(temp),
            cwd=ROOT,
            text=True,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def measure(self, drawn: list[tuple[str, list[str]]], llm: bool, bounds: Bounds) -> dict[str, float]:
        """Call the CRM, and the LLM about all candidates too if wanted, one request after the other."""
        took_s: list[float] = []
        for seconds in (bounds.warm_s, bounds.seconds):
            took_s = self._ask({"asks": drawn, "llm": llm, "requests": bounds.requests, "seconds": seconds})
        return {"requests_per_s": len(took_s) / sum(took_s), **percentiles_ms(took_s), "asked": len(took_s), "errors": 0, "fallbacks": 0}

    def wait(self) -> None:
        self._read()

    def _ask(self, content: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(content) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def environment(temp: Path) -> dict[str, str]:
    """Return what every process starts with: its own folders, one thread a model, no lower priority for Ray's workers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ray = {"RAY_TMPDIR": str(temp), "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**kept, **ray, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{temp}/mlflow.db"}


def yardstick(name: str, ensemble: str, port: int, temp: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("serving_yardsticks.py")), name, ensemble, str(port), str(temp)]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def started(names: Sequence[str], ensemble: str, temp: Path, said: list[str]) -> Iterator[dict[str, int]]:
    """Start servers beside each other, yield the ports of those that answer, and end them all."""
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    processes: dict[str, subprocess.Popen[Any]] = {}
    try:
        for name, port in ports.items():
            (temp / name).mkdir()
            with (temp / f"{name}.log").open("wb") as log:
                kept = environment(temp / name)
                processes[name] = subprocess.Popen(
                    command(name, ensemble, port, temp), env=kept, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
                )
        yield {name: port for name, port in ports.items() if answers(name, port, processes[name], temp, said)}
    finally:
        end(list(processes.values()))


@contextlib.contextmanager
def in_process(ensemble: str, temp: Path, said: list[str]) -> Iterator[Alone | None]:
    """Load the models in a process of their own; yields None where they can't be."""
    (temp / "arms").mkdir()
    alone = Alone(ensemble, temp / "arms")
    try:
        yield ready(alone, said)
    finally:
        end([alone.process])


def command(name: str, ensemble: str, port: int, temp: Path) -> list[str]:
    """Return what starts a server."""
    if name not in ("endpoint", UNCACHED):
        return yardstick(name, ensemble, port, temp / name)
    cache = ["llm_cache_mib=0"] if name == UNCACHED else []
    return [sys.executable, "-m", "serving.local", "--model", ensemble, "--port", str(port), f"events=sqlite:///{temp}/{name}.db", *cache]


def answers(name: str, port: int, process: subprocess.Popen[Any], temp: Path, said: list[str]) -> bool:
    """Wait until a server answers; where it does not, say so with the last line of its log."""
    until_s = time.monotonic() + START_S
    log = temp / f"{name}.log"
    while time.monotonic() < until_s and process.poll() is None:
        # The endpoint says so itself: its port is open before the application is there.
        if name not in ("endpoint", UNCACHED, "neighbours") or b"serving " in log.read_bytes():
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                return True
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    said.append(f"{SERVERS[name]}: could not run: {lines[-1][:300]}")
    return False


def ready(alone: Alone, said: list[str]) -> Alone | None:
    try:
        alone.wait()
    except ValueError:
        said.append(f"{ALONE}: could not run")
        return None
    return alone


def end(processes: list[subprocess.Popen[Any]]) -> None:
    """Stop all, and then whatever is left of them by force."""
    families: list[list[psutil.Process]] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            families.append(psutil.Process(process.pid).children(recursive=True))
    for process in processes:
        process.terminate()  # SIGINT is ignored by what a script starts in the background
    until_s = time.monotonic() + STOP_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until_s - time.monotonic()))
        process.kill()  # no harm where it has ended
    for child in (child for family in families for child in family):
        with contextlib.suppress(psutil.Error):
            child.kill()
