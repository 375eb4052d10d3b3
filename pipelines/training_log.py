"""The training log: read from checkpoints, shown as it grows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from components import artifacts, storage
from pipelines.board import Line
from pipelines.stage import StageContext


def read_log(checkpoint: str) -> list[Line]:
    """Return the lines of a checkpoint's log."""
    with storage.open_file(artifacts.join(checkpoint, "training_log.jsonl")) as file:
        return [json.loads(line) for line in file]


def steps_made(log: Sequence[Line]) -> int:
    """Return the optimizer steps of all stages."""
    return sum({str(line["stage"]): int(line["step"]) for line in log}.values())


class Monitor:
    """Shows the lines of the training log as they come; those that a resumed run reports again are not shown twice."""

    def __init__(self, context: StageContext, earlier: Sequence[Line] = ()) -> None:
        """`earlier` are the lines of a broken attempt: they are recorded again, for another store perhaps, and not shown."""
        self._context = context
        self._earlier = {_key(line) for line in earlier}
        self._seen: set[tuple[str, int, bool]] = set()

    def show(self, line: Line) -> None:
        stage, step, validated = key = _key(line)
        if key in self._seen:
            return
        self._seen.add(key)
        figures = {name: value for name, value in line.items() if isinstance(value, float)}
        text = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "rate")
        self._context.on_metrics({f"{stage}/{name}": value for name, value in figures.items()}, step)
        if key in self._earlier:
            return
        if validated:
            self._context.progress.say(f"{stage}, epoch {line['epoch']}: {text}")
        else:
            self._context.progress.update(step, int(line["steps"]), f"{stage} steps ({text})")


def _key(line: Line) -> tuple[str, int, bool]:
    """Tell lines apart: stage, step, and whether it is a validation."""
    return str(line["stage"]), int(line["step"]), "steps" not in line
