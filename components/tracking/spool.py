"""What the tracking store could not take is kept in a file, one JSON line each, and sent later in the same order.

Sending is exactly once in effect: every event may be applied twice without a trace, and the lock file remembers, in
bytes, how far the sending came, so a sender that was killed repeats little.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import storage
from components.file_lock import file_lock

FILE_KINDS = ("files", "model")  # events that name files; they are never kept: later, other files may lie there
RUN_KEY = "tandem-"  # what our keys of runs begin with; MLflow's ids are bare hexadecimal digits
EVENTS_AT_ONCE = 100  # neighbouring metric events that are sent together


@dataclass(frozen=True)
class Event:
    """One thing to record, made of what JSON can hold where it is kept."""

    kind: str  # "start", "batch", "files", "dataset", "model", "end"
    run: str  # MLflow's id of the run, or a key of ours that a tag of the run holds
    at_ms: int
    body: dict[str, Any]


class Spool:
    """A file of waiting events that several processes of one machine may share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(path.name + ".lock")

    @property
    def waiting(self) -> bool:
        return self.path.exists()

    @property
    def refused(self) -> Spool:
        """The spool beside it, of what the store would not take."""
        return Spool(self.path.with_name(self.path.name + ".refused"))

    def leave(self, uri: str) -> None:
        """Move the waiting events to a file at a URI, in the place of what is there; remove it where none wait."""
        fs, path = storage.filesystem(uri)
        with file_lock(self._lock):
            if self.waiting:
                fs.pipe_file(path, self.path.read_bytes()[int(self._lock.read_text() or 0) :])
                self._lock.write_text("")
                self.path.unlink()
            elif fs.exists(path):
                fs.rm(path)
            self._lock.unlink(missing_ok=True)

    def fetch(self, uri: str) -> None:
        """Add the events at a URI where `leave` left some; they stay there, too."""
        fs, path = storage.filesystem(uri)
        if fs.exists(path):
            self._add(fs.cat_file(path))  # pyright: ignore[reportArgumentType]

    def append(self, events: Sequence[Event]) -> None:
        """Add events at the end; raise OSError where the disk refuses."""
        if not events:
            return
        self._add(b"".join(json.dumps(dataclasses.asdict(event)).encode() + b"\n" for event in events))

    def _add(self, lines: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self._lock), self.path.open("ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")  # a writer was killed inside its last line
            file.write(lines)

    def drain(self, apply: Callable[[Event], object], budget_s: float) -> int:
        """Apply the waiting events in order until all are sent or the time is up; return how many were sent.

        What `apply` raises comes through; the events sent before stay sent.
        """
        if not self.waiting:
            return 0
        sent, until_s = 0, time.monotonic() + budget_s
        with file_lock(self._lock):
            events = _read(self.path, int(self._lock.read_text() or 0)) if self.waiting else iter(())
            for event, count, offset in _merged(events):
                if time.monotonic() > until_s:
                    return sent
                apply(event)
                sent += count
                self._lock.write_text(str(offset))
            # The offset goes first: a sender killed between the two sends again, instead of skipping new events.
            self._lock.write_text("")
            self.path.unlink(missing_ok=True)
            self._lock.unlink(missing_ok=True)
        return sent


def _read(path: Path, start: int) -> Iterator[tuple[Event, int]]:
    """Yield each readable event from a byte offset on, with the offset behind it; a torn line is skipped."""
    with path.open("rb") as file:
        file.seek(start)
        for line in iter(file.readline, b""):
            with contextlib.suppress(ValueError, TypeError):
                yield Event(**json.loads(line)), file.tell()


def _merged(events: Iterator[tuple[Event, int]]) -> Iterator[tuple[Event, int, int]]:
    """Join neighbouring metrics of one run into one event; yields it, how many events it stands for and the offset behind them."""
    held: list[tuple[Event, int]] = []
    for event, offset in events:
        if held and not (_is_metrics(event) and _is_metrics(held[0][0]) and event.run == held[0][0].run and len(held) < EVENTS_AT_ONCE):
            yield _joined(held), len(held), held[-1][1]
            held = []
        held.append((event, offset))
    if held:
        yield _joined(held), len(held), held[-1][1]


def _joined(held: list[tuple[Event, int]]) -> Event:
    first = held[0][0]
    if len(held) == 1:
        return first
    return Event(first.kind, first.run, first.at_ms, {"metrics": [row for event, _ in held for row in event.body["metrics"]]})


def _is_metrics(event: Event) -> bool:
    return event.kind == "batch" and list(event.body) == ["metrics"]
