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
from serving_rows import beside_others, beside_serve, draw, routed
from serving_servers import ALONE, OTHERS, SERVERS, UNCACHED, Alone, in_process, started
from serving_table import Found, goals, outcomes, show, summary
from serving_yardsticks import pasts

from serving.local import newest_run
from serving.model import resolve


class Load:
    """Measures rows round by round, and keeps what was found."""

    def __init__(self, options: argparse.Namespace, drawn: list[tuple[str, list[str]]]) -> None:
        self.found: Found = {}
        self._options, self._drawn = options, drawn
        self._bounds = Bounds(options.requests, options.seconds, options.warm)

    def measure(self, lines: list[Row], alone: Alone | None = None) -> None:
        """Measure neighbours in the table right after one another, again and again."""
        for number in range(self._options.rounds):
            print(f"round {number + 1} of {self._options.rounds}, {len(lines)} rows", file=sys.stderr, flush=True)
            for clients in self._options.clients:
                for row in lines:
                    self._keep(row.name, clients, uvloop.run(measure(row, clients, self._bounds)))
            if alone is not None:
                for name, llm in ((f"{ALONE}, CRM", False), (f"{ALONE}, CRM and LLM", True)):
                    self._keep(name, 1, alone.measure(self._drawn, llm, self._bounds))

    def _keep(self, name: str, clients: int, figures: dict[str, float]) -> None:
        self.found.setdefault((name, clients), []).append(figures)


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
    said.append(f"load average before the first server: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    load = Load(options, drawn)
    # Ray's sockets need a short path. Servers that are not compared are not there: they take time from the two cores though nobody asks.
    with tempfile.TemporaryDirectory(prefix="load-", dir="/tmp") as temp:
        here = Path(temp)
        with started(["neighbours"], ensemble, here, said) as ports:
            if not ports:
                sys.exit(said[-1])
            load.measure(beside_serve(ports["neighbours"], drawn))
        with started(["endpoint", *OTHERS], ensemble, here, said) as ports, in_process(ensemble, here, said) as alone:
            if "endpoint" not in ports:
                sys.exit(said[-1])
            load.measure(beside_others(ports["endpoint"], ports, drawn, pasts(ensemble, users, items)), alone)
        with started([UNCACHED], ensemble, here, said) as ports:
            load.measure([row for port in ports.values() for row in routed(SERVERS[UNCACHED], port, drawn)])
    found = load.found
    lines, compared = summary(found), goals(found)
    show(lines, compared, said)
    print(json.dumps({"candidates": len(drawn[0][1]), "rounds": options.rounds, "points": lines, "compared": compared, "said": said}))
    outcome.show(outcomes(found))


if __name__ == "__main__":
    main()
