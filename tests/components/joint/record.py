"""The losses of the tiny run: `python -m tests.components.joint.record` writes them anew."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from components.joint.training import Line

CURVE = Path(__file__).with_name("recorded_loss_curve.json")


def curve(log: Sequence[Line]) -> dict[str, list[float]]:
    """Return each stage's loss at every step."""
    losses: dict[str, list[float]] = {}
    for line in log:
        if "steps" in line:
            losses.setdefault(str(line["stage"]), []).append(round(float(line["train_loss"]), 7))
    return losses


if __name__ == "__main__":
    from tests.components.joint import prepared, runs, worlds

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        prepared.make(data)
        CURVE.write_text(json.dumps(curve(worlds.run(1, runs.unbroken, data, runs.parts(data), None)[0].log), indent=1) + "\n")
