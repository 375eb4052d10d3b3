"""What the person who waits sees: which stage, how far, how long."""

from __future__ import annotations

import logging
import os
import sys
import time

from components.errors import one_line

EVERY_S = 5.0  # at most one line of progress in this time
# Libraries that note as warnings or news what is as it should be: tokens of a cluster, no GPU, an example that is checked.
CHATTY = ("ray._private.authentication.authentication_token_setup", "ray.data._internal.progress", "DeepSpeed")


def quiet() -> None:
    """Keep libraries' news out of the way of a run's own lines; errors still come through."""
    for name in CHATTY:
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")


class Progress:
    """Prints one line a step to standard error; a job's log shows the same lines as a terminal."""

    def __init__(self, stages: int) -> None:
        self._stages, self._number, self._stage = stages, 0, ""
        self._started_s = self._said_s = time.monotonic()
        self._stage_started_s = self._started_s

    def start(self, stage: str) -> None:
        """Enter the next stage."""
        self._number, self._stage, self._stage_started_s = self._number + 1, stage, time.monotonic()
        self.say("started")

    def end(self) -> None:
        """Say how long all stages took."""
        if self._number:
            stages = f"{self._number} stage{'s'[: self._number > 1]}"
            print(f"{stages} in {time.monotonic() - self._started_s:.0f} s", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line now."""
        self._said_s = time.monotonic()
        elapsed = self._said_s - self._stage_started_s
        print(one_line(f"[{self._number}/{self._stages} {self._stage} {elapsed:5.0f} s] {text}"), file=sys.stderr, flush=True)

    def update(self, done: int, total: int, text: str) -> None:
        """Print how far the stage is, unless a line was printed a moment ago."""
        if time.monotonic() - self._said_s >= EVERY_S or done >= total:
            share = 100 * done / max(total, 1)
            self.say(f"{text}: {done:,} of {total:,} ({share:.0f} %)")
