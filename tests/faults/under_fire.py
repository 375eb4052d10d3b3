"""Runs the pipeline to its end, whatever ends it on the way: a driver that ended is started again with the same command."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import psutil

from tests.end_to_end.command import ROOT, environment
from tests.faults.aims import Aim, Look
from tests.faults.processes import MARK, TITLES, kind_of, marked

LOOK_S = 0.02
STARTS = 30  # of the driver, at most
PROGRESS = re.compile(r"\[\d+/\d+ ")  # how a line begins that says how far the run is
RECORDING = "recording"  # what a run does once all its artifacts are there


@dataclass
class Hit:
    """A process that got a signal."""

    kind: str
    stage: str
    at_s: float
    recovered_s: float | None = None  # until the run, with a new process in it, next said how far it is, or was done


@dataclass
class Round:
    """What a run under fire came to."""

    hits: list[Hit] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # by all its drivers
    ends: list[str] = field(default_factory=list)  # of drivers that did not finish: exit code and error, or else the last line
    redone: list[str] = field(default_factory=list)  # stages that were finished and are written again
    seconds: float = 0.0

    @property
    def resumed(self) -> int:
        """How often training went on inside itself."""
        return sum("training goes on from" in line for line in self.said)


def run(temp: Path, output: Path, command: Sequence[str], aim: Aim, timeout_s: float) -> Round:
    """Run `full.py` with these arguments until it is done; raises TimeoutError where that takes too long."""
    (temp / "ray").mkdir(parents=True, exist_ok=True)
    mark, started_s, seen = uuid.uuid4().hex, time.monotonic(), Round()
    finished = _finished(output)
    try:
        for _ in range(STARTS):
            code, said = _drive(temp, output, command, mark, aim, seen, started_s + timeout_s)
            seen.said += said
            now = _finished(output)
            seen.redone += [stage for stage, written_ns in finished.items() if now.get(stage) != written_ns]
            finished = now
            if code == 0:
                seen.seconds = time.monotonic() - started_s
                for hit in seen.hits:  # the last ones: it had nothing to say after them
                    hit.recovered_s = hit.recovered_s or time.monotonic() - hit.at_s
                return seen
            seen.ends.append(f"{code}: {next((line for line in said if line.startswith('error:')), said[-1] if said else '')[:300]}")
        raise TimeoutError(f"not done after {STARTS} starts: {seen.ends}")
    finally:
        for process in marked(mark):
            with contextlib.suppress(psutil.Error):
                process.kill()


def stage_of(output: Path) -> str:
    """Return the stage that is being written, or was when a driver died."""
    with contextlib.suppress(FileNotFoundError):  # it is removed while it is looked at
        if partial := max(output.glob("*.partial-*"), key=lambda path: path.stat().st_ctime, default=None):
            return partial.name.split(".partial-")[0]
    return RECORDING if (output / "report" / "_manifest.json").exists() else ""


def _finished(output: Path) -> dict[str, int]:
    """Return which stages are finished, and when their artifacts were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output.glob("*/_manifest.json") if ".partial-" not in path.parent.name}


def _drive(temp: Path, output: Path, command: Sequence[str], mark: str, aim: Aim, seen: Round, until_s: float) -> tuple[int, list[str]]:
    """Start the driver once and fire at it until it ends; return its exit code and what it said."""
    with (temp / "said.txt").open("a") as log, (temp / "said.txt").open() as reading:
        reading.seek(log.tell())
        driver = psutil.Popen(
            [sys.executable, str(ROOT / "pipelines" / "full.py"), *command, "--output", str(output)],
            cwd=temp,
            env={**environment(temp), **TITLES, MARK: mark},
            stdout=subprocess.DEVNULL,
            stderr=log,
            # What runs in the background of a shell would hand down that Ctrl-C is to be ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        said: list[str] = []
        for line in _lines(reading, driver, until_s):
            if line is not None:
                said.append(line)
                if PROGRESS.match(line):
                    _note_recovery(seen.hits, mark)
            elif shot := aim(Look(driver, stage_of(output), lambda: marked(mark))):
                _fire(*shot, stage_of(output), seen.hits)
        return driver.wait(), said


def _lines(reading: TextIO, driver: psutil.Popen, until_s: float) -> Iterator[str | None]:
    """Yield what the driver says, line by line, and None when it says nothing, until it has ended."""
    running = True
    while running:
        running = driver.poll() is None  # before reading: nothing of its last words is missed
        yield from (line.strip() for line in reading)
        if running and time.monotonic() > until_s:
            driver.kill()
            raise TimeoutError("the run is not done in time")
        if running:
            yield None
            time.sleep(LOOK_S)


def _fire(victim: psutil.Process, signum: signal.Signals, stage: str, hits: list[Hit]) -> None:
    kind = kind_of(victim)
    if kind is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signum)
            hits.append(Hit(kind, stage, time.monotonic()))
            print(f"  {time.strftime('%H:%M:%S')} {signum.name}: {kind} in {stage or 'no stage'}", flush=True)


def _note_recovery(hits: Sequence[Hit], mark: str) -> None:
    """Let those hits be over that a new process came after, now that the run says how far it is."""
    waiting = [hit for hit in hits if hit.recovered_s is None]
    if waiting:
        youngest_s = max((_started_s(process) for process in marked(mark)), default=0.0)
        for hit in waiting:
            if youngest_s > hit.at_s:
                hit.recovered_s = time.monotonic() - hit.at_s


def _started_s(process: psutil.Process) -> float:
    """Return when a process started, on the clock that does not jump."""
    with contextlib.suppress(psutil.Error):
        return time.monotonic() - (time.time() - process.create_time())
    return 0.0
