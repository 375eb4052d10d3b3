"""Several clients that ask at the same time, for as long as a test wants."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.serving.served import Answer, Served


@dataclass(frozen=True)
class Failure:
    """A question without a whole answer."""

    error: Exception
    asked_s: float  # on time.monotonic's clock

    @property
    def is_silence(self) -> bool:
        """Nobody listened, or the connection was closed before a byte of an answer; not a half answer or none in time."""
        return isinstance(getattr(self.error, "reason", self.error), (ConnectionRefusedError, ConnectionResetError, BrokenPipeError))


class Load:
    """What the clients got."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []

    @property
    def statuses(self) -> set[int]:
        return {answer.status for answer in self.answers}


@contextmanager
def load(endpoint: Served, body: Any, clients: int = 4, pause_s: float = 0.0) -> Iterator[Load]:
    """Let clients ask one request after the other until the block ends; with a pause they leave the cores to what is to start."""
    found, stop = Load(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            asked_s = time.monotonic()
            try:
                found.answers.append(endpoint.post("/v1/score", body))
            except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out or cut short
                found.failures.append(Failure(error, asked_s))
            time.sleep(pause_s)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
