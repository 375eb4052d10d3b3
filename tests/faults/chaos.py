"""The demo's pipeline while processes of it are killed, compared with a run that nobody disturbed.

python -m tests.faults.chaos [--seed 1] [--minutes 20] [--every 15] [--kills 10]

The first round kills the driver once in every stage. Every further round kills a process at random (the driver, Ray's own
processes, training workers, actors of Ray Data, idle workers) every few seconds. A driver that ended is started again with
the same command. `--kills 0` runs the same without any fault. In the end every artifact and what MLflow recorded must be
that of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from tests.end_to_end.command import FEW, SMALL
from tests.faults import aims, same
from tests.faults.under_fire import RECORDING, Round, run

RUN = ["demo", *FEW, *SMALL, "--train.checkpoint-every-s", "0"]
LIMIT_S = 900.0  # of one round


@dataclass(frozen=True)
class Outcome:
    """A round, and in what its run differs from the undisturbed one."""

    fire: Round
    lost: int  # rows and steps that are missing, or there more often than they should be
    unlike: list[str]

    @property
    def summary(self) -> str:
        what = f"{len(self.fire.hits)} kills, {self.fire.seconds:.0f} s, training resumed {self.fire.resumed} times"
        return f"{what}, {self.lost} rows and steps lost, {len(self.unlike)} differences"


def every_stage(random: Random, unbroken: Path) -> aims.Aim:
    """Kill the driver once in every stage, and once while it records what came out."""
    manifests = {path.parent.name: json.loads(path.read_text()) for path in sorted(unbroken.glob("*/_manifest.json"))}
    return aims.in_every_stage(random, {stage: manifest["seconds"] for stage, manifest in manifests.items()} | {RECORDING: 1.0})


def attack(temp: Path, unbroken: Path, command: Sequence[str], aim: aims.Aim) -> Outcome:
    """Run the undisturbed run's command below `temp`, under fire, and compare what comes out."""
    output = temp / unbroken.name
    fire = run(temp, output, command, aim, LIMIT_S)
    unlike = [f"{stage} was finished and is written again" for stage in fire.redone]
    unlike += same.differences(output, unbroken) + same.differences_recorded(output.parent / "mlflow.db", unbroken.parent / "mlflow.db")
    return Outcome(fire, same.rows_lost(output, unbroken) + same.steps_lost(output, unbroken), unlike)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the README's table: each kind of process that was killed, how often, what was lost in its rounds, how long it took."""
    lines = ["| killed | times | rows and steps lost | seconds until the run went on, median (longest) |", "|---|---|---|---|"]
    for kind in sorted({hit.kind for outcome in outcomes for hit in outcome.fire.hits}):
        rounds = [outcome for outcome in outcomes if any(hit.kind == kind for hit in outcome.fire.hits)]
        hits = [hit for outcome in rounds for hit in outcome.fire.hits if hit.kind == kind]
        took_s = [hit.recovered_s for hit in hits if hit.recovered_s is not None]
        lost = sum(outcome.lost for outcome in rounds)
        lines.append(f"| {kind} | {len(hits)} | {lost} | {f'{median(took_s):.0f} ({max(took_s):.0f})' if took_s else '-'} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20.0, help="after which no other round starts")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two kills, about: more than a driver takes to start")
    parser.add_argument("--kills", type=int, default=10, help="of a round, at most")
    options = parser.parse_args()
    until_s = time.monotonic() + 60 * options.minutes
    temp = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # short: Ray's sockets have long names
    unbroken = temp / "unbroken" / "demo"
    print(f"undisturbed: {run(unbroken.parent, unbroken, RUN, aims.nowhere, LIMIT_S).seconds:.0f} s, in {temp}", flush=True)
    outcomes: list[Outcome] = []
    while not outcomes or time.monotonic() < until_s:
        number = len(outcomes)
        random = Random(f"{options.seed} {number}")
        aim = aims.at_random(random, options.every, options.kills) if number else every_stage(random, unbroken)
        outcomes.append(outcome := attack(temp / f"round-{number}", unbroken, RUN, aim if options.kills else aims.nowhere))
        print("\n  ".join([f"round {number}: {outcome.summary}", *outcome.fire.ends, *outcome.unlike]), flush=True)
    print(table(outcomes))
    if any(outcome.unlike for outcome in outcomes):
        return 1
    shutil.rmtree(temp, ignore_errors=True)
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
