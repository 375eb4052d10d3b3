"""Runs every benchmark in turn and rewrites the table of figures in README.md: `make bench`.

python benchmarks/all.py [--peers FOLDER] [--only NAME...]

Each script prints what it found as a line of JSON, its last (`outcome.py`). One that fails, or takes longer than it may, is one row
that says so; the others still run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outcome import Outcome, rate_text, ratio_text, share_text

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
HEAD = "| subject | Tandem | others, and how many times as fast Tandem is | goal | of the machine's peak |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Script:
    """A benchmark, and how long it may take."""

    name: str
    seconds: float
    takes_peers: bool = False  # has `--peers FOLDER`
    options: tuple[str, ...] = ()


SCRIPTS = (
    Script("crm_training", 300, takes_peers=True),
    Script("crm_scoring", 180, takes_peers=True),
    Script("crm_tables", 60, options=("--rows", "1000000")),
    Script("preparing", 300),
    Script("llm_scoring", 300, takes_peers=True),
    Script("llm_training", 300),
    Script("gpu", 300),
    Script("serving_load", 300, options=("--rounds", "2", "--clients", "1", "8")),
)


def run(script: Script, folder: Path, peers: str | None) -> list[Outcome] | str:
    """Run one script and return what it found, or why it found nothing."""
    path = folder / f"{script.name}.py"
    if not path.exists():
        return f"{path.name} is not there"
    options = [*script.options, *(["--peers", peers] if peers and script.takes_peers else [])]
    try:
        done = subprocess.run([sys.executable, str(path), *options], stdout=subprocess.PIPE, text=True, timeout=script.seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"took more than {script.seconds:.0f} s"
    if done.returncode:
        return f"failed with exit code {done.returncode}"
    try:
        return [Outcome(**each) for each in json.loads(done.stdout.strip().splitlines()[-1])]
    except (ValueError, TypeError, IndexError) as error:
        return f"its last line is no list of outcomes: {error}"


def table(found: Sequence[tuple[str, list[Outcome] | str]]) -> str:
    """Write a row for each outcome, and for each script that has none."""
    rows = [_row(outcome) for _, outcomes in found if not isinstance(outcomes, str) for outcome in outcomes]
    rows += [f"| `{name}.py` | {reason} | | | |" for name, reason in found if isinstance(reason, str)]
    return "\n".join([HEAD, *rows])


def _row(outcome: Outcome) -> str:
    ours = rate_text(outcome.ours) if isinstance(outcome.ours, str) else f"{rate_text(outcome.ours)} {outcome.unit}"
    others = [f"{name}: {rate_text(rate)}{_ratio(outcome, name)}" for name, rate in outcome.peers.items()]
    goals = [f"{goal:g} x {name}" for name, goal in outcome.goals.items()]
    cells = (outcome.subject, ours, "; ".join(others), "; ".join(goals), share_text(outcome))
    return f"| {' | '.join(cells)} |"


def _ratio(outcome: Outcome, peer: str) -> str:
    found = ratio_text(outcome, peer)
    return f" ({found})" if found else ""


def rewritten(text: str, table: str) -> str:
    """Put the table between the two marks of a page; raises ValueError where these are not there, once and in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"expected {BEGIN} and, after it, {END}, once each")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", help="folder of the peers' virtual environments; default: each script's own")
    parser.add_argument("--only", nargs="+", default=[script.name for script in SCRIPTS], help="scripts to run; the table has these alone")
    parser.add_argument("--page", type=Path, default=ROOT / "README.md", help="the page that holds the table")
    options = parser.parse_args()
    rewritten(options.page.read_text(), "")  # a page without marks is better known now than after minutes
    found: list[tuple[str, list[Outcome] | str]] = []
    chosen = [script for script in SCRIPTS if script.name in options.only]
    for number, script in enumerate(chosen, start=1):
        started_s = time.monotonic()
        print(f"[{number}/{len(chosen)}] {script.name}, at most {script.seconds:.0f} s", file=sys.stderr, flush=True)
        found.append((script.name, run(script, Path(__file__).parent, options.peers)))
        said = found[-1][1] if isinstance(found[-1][1], str) else f"{len(found[-1][1])} rows"
        print(f"[{number}/{len(chosen)}] {script.name}: {said}, {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    written = table(found)
    options.page.write_text(rewritten(options.page.read_text(), written))
    print(written)


if __name__ == "__main__":
    main()
