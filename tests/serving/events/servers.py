"""A real redis-server on loopback, and a process that appends until it is killed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from serving.events import Event

PASSWORD = "pass:word/with@marks"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
APPENDER = """
import sys
from serving.events import Event, open_store

store = open_store(sys.argv[1])
for number in range(1_000_000):
    store.append(Event(f"{sys.argv[2]}{number}", f"u{number % 3}", "item", 1.0, number))
    print(number, flush=True)
"""


def event(event_id: str = "e1", user_id: str = "u1", item_id: str = "i1", rating: float = 4.5, timestamp_s: int = 100) -> Event:
    return Event(event_id, user_id, item_id, rating, timestamp_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def appender(uri: str, prefix: str = "e") -> subprocess.Popen[str]:
    """Start a process that prints the number of each event once it was appended."""
    return subprocess.Popen([sys.executable, "-c", APPENDER, uri, prefix], stdout=subprocess.PIPE, text=True)


def kill_when_busy(process: subprocess.Popen[str], lines: int = 20) -> list[int]:
    """Kill a process after some lines; return all that it printed."""
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest, _ = process.communicate()
    return [int(line) for line in "".join([*seen, rest]).splitlines(keepends=True) if line.endswith("\n")]


@dataclass
class RedisServer:
    """May be killed and started again on the same port and folder."""

    folder: Path
    options: tuple[str, ...] = DURABLE
    password: str = ""
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password or None)

    def start(self) -> RedisServer:
        command = shutil.which("redis-server")
        if command is None:
            pytest.skip("needs redis-server (Debian's package has this name)")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", *self.options]
        if self.password:
            options += ["--requirepass", self.password]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen([command, *options], stdout=log, stderr=log)
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s and self.process.poll() is None:
            try:
                self.client.ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                return self
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
