"""Real SQLite stores and a real MLflow server on loopback for the tests of tracking."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from components.tracking import Tracker, Tracking, open_tracker


def sqlite_uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def open_at(folder: Path, uri: str | None = None, retry_s: float = 30.0) -> Tracker:
    return open_tracker(Tracking.Config(uri=uri), sqlite_uri(folder), folder / "spool.jsonl", retry_s)


def rows(folder: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return database.execute(query).fetchall()


def metric_rows(folder: Path) -> list[tuple]:
    return rows(folder, "select key, step, value from metrics order by key, step")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def dead_uri() -> str:
    return f"http://127.0.0.1:{free_port()}"


@dataclass
class Server:
    """A real `mlflow server` that a test may kill and start again on the same port and database."""

    folder: Path
    port: int
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", sqlite_uri(self.folder), "--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            command = [sys.executable, "-m", "mlflow", "server", *options, *store]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the command and the worker that it started
            self.process.wait()
            self.process = None
