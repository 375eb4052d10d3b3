"""What a benchmark found: a table for the reader, and one line of JSON, the last that a script prints, for `make bench`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median

NOT_INSTALLED = "not installed"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Outcome:
    """One row of the README's table: our rate, the peers' on the same data in the same run, and what the machine would allow."""

    subject: str
    unit: str
    """Of all rates, for example samples/s."""
    ours: float | str
    """Our rate, or why there is none (`NOT_RUN`)."""
    peers: Mapping[str, float | str]
    """Each peer's rate, or why it has none (`NOT_INSTALLED`, `NOT_RUN`)."""
    goals: Mapping[str, float]
    """For some peers, the least ratio of our rate to theirs that we want."""
    floor: float | None = None
    """The rate if this machine's measured peak (`machine.py`) were the only limit."""
    notes: str = ""
    """What else belongs to the figure: quality reached, largest error, memory."""


def alternate(works: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Call every work once a round, one after the other, and return the median of what each returned (its rate)."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(work())
    return {name: median(rates) for name, rates in found.items()}


def show(outcomes: list[Outcome]) -> None:
    """Print a table and the JSON line."""
    for each in outcomes:
        print(f"{each.subject} ({each.unit})")
        peak = "" if each.floor is None else f"   {share_text(each)} of {each.floor:,.0f} at the peak"
        print(f"  {'Tandem':44} {rate_text(each.ours):>14}{peak}")
        for name, rate in each.peers.items():
            wanted = f"   (goal {each.goals[name]:g} x)" if name in each.goals else ""
            print(f"  {name:44} {rate_text(rate):>14}   {ratio_text(each, name)}{wanted}")
        if each.notes:
            print(f"  {each.notes}")
    print(json.dumps([asdict(each) for each in outcomes]))


def rate_text(rate: float | str) -> str:
    """Write a rate, or why there is none."""
    return rate if isinstance(rate, str) else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def ratio_text(outcome: Outcome, peer: str) -> str:
    """Write our rate over a peer's; nothing where one of the two has none."""
    ours, theirs = outcome.ours, outcome.peers[peer]
    return "" if isinstance(ours, str) or isinstance(theirs, str) else f"{ours / theirs:.2f} x"


def share_text(outcome: Outcome) -> str:
    """Write our share of the floor's rate; nothing where there is no floor."""
    if outcome.floor is None:
        return ""
    return "-" if isinstance(outcome.ours, str) else f"{outcome.ours / outcome.floor:.0%}"
