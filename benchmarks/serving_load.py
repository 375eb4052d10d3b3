"""The endpoint under load on this machine, beside yardsticks that are measured in the same rounds.

python benchmarks/serving_load.py [--model RUN_FOLDER] [--requests N] [--seconds S] [--clients 1 8 32] [--quick]

Every point is warmed up and then asks until a count of requests or a time is reached, whichever comes first; clients ask
one request after the other on connections that stay open. A round measures every row once, and a figure is the median of
the rounds. Every request has 100 candidates; users and items are drawn from the run that is served. requests/s counts
answers as asked: no errors, and none that the CRM gave because the LLM was too busy (`fallbacks`). The line of JSON before the last
has every point, the last one the comparisons in the form of all benchmarks (`outcome.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import outcome
import pandas as pd
import uvloop
from serving_clients import Bounds, Row, measure
from serving_rows import draw, rows_of
from serving_servers import ALONE, Alone, started
from serving_table import Found, goals, outcomes, show, summary
from serving_yardsticks import pasts

from serving.local import newest_run
from serving.model import resolve


def measure_all(options: argparse.Namespace, lines: list[Row], alone: Alone | None, drawn: list[tuple[str, list[str]]]) -> Found:
    """Measure everything in rounds: neighbours in the table are measured right after one another, again and again."""
    bounds = Bounds(options.requests, options.seconds, options.warm)
    found: Found = {}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for clients in options.clients:
            for row in lines:
                found.setdefault((row.name, clients), []).append(uvloop.run(measure(row, clients, bounds)))
        if alone is not None:
            for name, llm in ((f"{ALONE}, CRM", False), (f"{ALONE}, CRM and LLM", True)):
                found.setdefault((name, 1), []).append(alone.measure(drawn, llm, bounds))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a run's folder, an ensemble or models:/NAME@ALIAS; default: the newest finished run below runs/")
    parser.add_argument("--requests", type=int, default=3_000, help="at most, a point and round")
    parser.add_argument("--seconds", type=float, default=1.6, help="at most, a point and round")
    parser.add_argument("--warm", type=float, default=0.3, help="seconds before each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--quick", action="store_true", help="one short round, to try it")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.warm = 1, min(options.seconds, 0.4), min(options.warm, 0.1)
    return options


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ensemble = resolve(options.model or newest_run()).local()
    users, items = (pd.read_parquet(Path(ensemble, f"{name}.parquet")) for name in ("users", "items"))
    drawn = draw(users, items)
    said = ["MLflow's server: the ensemble with its policy's threshold set to inf, so that the LLM is loaded and never asked"]
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="load-", dir="/tmp") as temp, started(ensemble, Path(temp), said) as (ports, alone):
        said.append(f"load average before the first point: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
        found = measure_all(options, rows_of(ports, drawn, pasts(ensemble, users, items)), alone, drawn)
    lines, compared = summary(found), goals(found)
    show(lines, compared, said)
    print(json.dumps({"candidates": len(drawn[0][1]), "rounds": options.rounds, "points": lines, "compared": compared, "said": said}))
    outcome.show(outcomes(found))


if __name__ == "__main__":
    main()
