"""Which process a fault meets, and when. An aim is asked many times a second and mostly answers None."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import psutil

from tests.faults.processes import kind_of

MISSED_S = 0.1  # a stage as short as this would be over before its moment came: it is hit as soon as it is seen


@dataclass(frozen=True)
class Look:
    """What there is to see at a moment."""

    driver: psutil.Process
    stage: str  # that is being written, "" before the first and between two
    processes: Callable[[], Sequence[psutil.Process]]  # of the run, the driver's among them


Shot = tuple[psutil.Process, signal.Signals]
Aim = Callable[[Look], Shot | None]


def nowhere(look: Look) -> None:
    """Let the run go undisturbed."""


def in_every_stage(random: Random, seconds: Mapping[str, float]) -> Aim:
    """Kill the driver once in each stage, late in the `seconds` that the undisturbed run took there: the more is to be gone on from."""
    after_s = {stage: random.uniform(0.7, 0.9) * max(0.0, took_s - MISSED_S) for stage, took_s in seconds.items()}
    since: dict[str, float] = {}

    def aim(look: Look) -> Shot | None:
        if look.stage in after_s and time.monotonic() - since.setdefault(look.stage, time.monotonic()) >= after_s[look.stage]:
            del after_s[look.stage]
            return look.driver, signal.SIGKILL
        return None

    return aim


def at_random(random: Random, every_s: float, kills: int) -> Aim:
    """Kill a process of a kind drawn from those there are, every few seconds."""
    left, next_s = kills, time.monotonic() + random.uniform(0.5, 1.5) * every_s

    def aim(look: Look) -> Shot | None:
        nonlocal left, next_s
        if left == 0 or time.monotonic() < next_s:
            return None
        left, next_s = left - 1, time.monotonic() + random.uniform(0.5, 1.5) * every_s
        kinds: dict[str, list[psutil.Process]] = {}
        for process in look.processes():
            if kind := kind_of(process):
                kinds.setdefault(kind, []).append(process)
        return (random.choice(kinds[random.choice(sorted(kinds))]), signal.SIGKILL) if kinds else None

    return aim


def driver(signum: signal.Signals) -> Aim:
    """Send the driver a signal."""
    return lambda look: (look.driver, signum)


def in_turn(steps: Sequence[tuple[Callable[[], bool], Aim]]) -> Aim:
    """Let each aim have one shot as soon as its condition holds, one after the other."""
    left = list(steps)

    def aim(look: Look) -> Shot | None:
        shot = left[0][1](look) if left and left[0][0]() else None
        if shot:
            left.pop(0)
        return shot

    return aim
