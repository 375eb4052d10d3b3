"""Several clients that ask at the same time, for as long as a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.serving.served import Answer, Served


class Load:
    """What the clients got."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.failures: list[OSError] = []

    @property
    def statuses(self) -> set[int]:
        return {answer.status for answer in self.answers}


@contextmanager
def load(endpoint: Served, body: Any, clients: int = 4, pause_s: float = 0.0) -> Iterator[Load]:
    """Let clients ask one request after the other until the block ends; with a pause they leave the cores to what is to start."""
    found, stop = Load(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                found.answers.append(endpoint.post("/v1/score", body))
            except OSError as error:  # refused, reset or timed out
                found.failures.append(error)
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
