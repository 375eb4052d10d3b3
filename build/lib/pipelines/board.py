"""A notice board: workers pin lines to it, the driver reads them. One small actor, so nothing needs a shared disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions

Line = dict[str, float | str]
POLL_S = 1.0


@ray.remote(num_cpus=0)
class Board:
    """Holds the lines that were not read yet."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def pin(self, line: Line) -> None:
        self._lines.append(line)

    def take(self) -> list[Line]:
        taken, self._lines = self._lines, []
        return taken


class Reader:
    """Reads a board in the background and hands each line to `on_line`, until it is closed."""

    def __init__(self, on_line: Callable[[Line], None]) -> None:
        self.board: Any = Board.remote()
        self._on_line, self._closing = on_line, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def _follow(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(POLL_S)
            try:
                lines = ray.get(self.board.take.remote())
            except ray.exceptions.RayError as error:  # its node is gone: the work itself goes on, or says why it does not
                logging.getLogger(__name__).warning("progress of this stage can't be shown any more: %s", error)
                return
            for line in lines:
                self._on_line(line)
