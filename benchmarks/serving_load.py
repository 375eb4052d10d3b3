"""The endpoint under load on this machine, beside yardsticks that are measured in the same rounds.

python benchmarks/serving_load.py [--model RUN_FOLDER] [--requests N] [--seconds S] [--clients 1 8 32] [--quick]

Every point is warmed up and then asks until a count of requests or a time is reached, whichever comes first; clients ask
one request after the other on connections that stay open. A round measures every row once, and a figure is the median of
the rounds. Every request has 100 candidates; users and items are drawn from the run that is served. requests/s counts
answers as asked: no errors, and none that the CRM gave because the LLM was too busy (`fallbacks`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import psutil
import uvloop
from serving_yardsticks import HOST, Pasts, pasts, percentiles_ms, rows

from serving.local import newest_run
from serving.model import resolve

ROOT = Path(__file__).parent.parent
CANDIDATES = 100
BODIES = 40  # different requests a row
EVERY = 5  # 20 % of the requests: each fifth one
START_S, ANSWER_S, STOP_S = 120.0, 30.0, 30.0
CRM_ONLY, LLM_ONLY, BY_REQUEST = "endpoint, LLM share 0 %", "endpoint, 100 %", "endpoint, 20 % of requests"
MLFLOW, EMPTY, HEALTH = "MLflow's scoring server, CRM only", "empty Serve app", "endpoint, GET /healthz"
ALONE = "the models in-process"
SERVERS = {  # what is started, and the title that the reader meets
    "endpoint": "the endpoint",
    "empty": EMPTY,
    "unserved": "the endpoint's app on uvicorn, no Serve",
    "plain": "plain FastAPI + uvicorn, CRM",
    "mlflow": MLFLOW,
}


@dataclass(frozen=True)
class Row:
    """What a line of the table asks: whole HTTP requests, asked in turn."""

    name: str
    port: int
    requests: list[bytes]
    counts_arms: bool = False  # the answer tells which arm scored each candidate


@dataclass
class Tally:
    """What the clients of one point got."""

    took_s: list[float] = field(default_factory=list)
    errors: int = 0
    fallbacks: int = 0
    candidates: int = 0
    llm_candidates: int = 0
    llm_requests: int = 0

    def take(self, row: Row, status: int, body: bytes, seconds: float) -> None:
        """Count an answer; the text is searched, not parsed: clients share two cores with the server."""
        scored = body.count(b'"id":')
        if status != 200 or (row.counts_arms and not scored):
            self.errors += 1
            return
        llm = body.count(b'"arm":"llm"')
        self.took_s.append(seconds)
        self.candidates += scored
        self.llm_candidates += llm
        self.llm_requests += llm > 0
        self.fallbacks += b'"degraded":true' in body

    def figures(self, row: Row, elapsed_s: float, cpu_s: float) -> dict[str, float]:
        asked = len(self.took_s)
        found = {
            "requests_per_s": (asked - self.fallbacks) / elapsed_s,
            **percentiles_ms(self.took_s),
            "client_cpu_ms": 1000 * cpu_s / max(asked, 1),
            "asked": asked,
            "errors": self.errors,
            "fallbacks": self.fallbacks,
        }
        if row.counts_arms and asked:
            found |= {"llm_candidates": self.llm_candidates / self.candidates, "llm_requests": self.llm_requests / asked}
        return found


@dataclass(frozen=True)
class Bounds:
    """How long a point lasts."""

    requests: int
    seconds: float
    warm_s: float


class Connection:
    """One client's connection: HTTP/1.1 that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body; raises OSError or EOFError, after which the next question opens a new connection."""
        reader, writer = self._streams or await asyncio.open_connection(HOST, self._port)
        self._streams = None
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, found, length = head.partition(b"content-length:")
        if not found:
            raise OSError("expected an answer with a Content-Length")
        body = await reader.readexactly(int(length.split(b"\r\n", 1)[0]))
        self._streams = reader, writer
        return int(head[9:12]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def measure(row: Row, clients: int, bounds: Bounds) -> dict[str, float]:
    """Warm a row up, then measure it."""
    connections = [Connection(row.port) for _ in range(clients)]
    try:
        await asks(row, connections, Bounds(bounds.requests, bounds.warm_s, 0))
        started_s, cpu_s = time.monotonic(), time.process_time()
        tally = await asks(row, connections, bounds)
        return tally.figures(row, time.monotonic() - started_s, time.process_time() - cpu_s)
    finally:
        for connection in connections:
            connection.close()


async def asks(row: Row, connections: list[Connection], bounds: Bounds) -> Tally:
    """Let every client ask until the bounds are reached; what was asked until then is answered."""
    tally, asked, until_s = Tally(), 0, time.monotonic() + bounds.seconds

    async def client(connection: Connection) -> None:
        nonlocal asked
        while asked < bounds.requests and time.monotonic() < until_s:
            request = row.requests[asked % len(row.requests)]
            asked += 1
            started_s = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_S):
                    status, body = await connection.ask(request)
            except (OSError, EOFError):  # TimeoutError is one
                tally.errors += 1
                await asyncio.sleep(0.01)
                continue
            tally.take(row, status, body, time.monotonic() - started_s)

    await asyncio.gather(*(client(connection) for connection in connections))
    return tally


def http(path: str, body: Any = None) -> bytes:
    """Write a whole HTTP request."""
    method, content = ("GET", b"") if body is None else ("POST", json.dumps(body, separators=(",", ":")).encode())
    head = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def draw(users: pd.DataFrame, items: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Draw users and 100 items for each."""
    random, count = np.random.default_rng(0), min(CANDIDATES, len(items))
    chosen = random.choice(users["user_id"].to_numpy(object), BODIES)
    return [(user, random.choice(items["item_id"].to_numpy(object), count, replace=False).tolist()) for user in chosen.tolist()]


def question(user: str, items: list[str], llm_share: float) -> bytes:
    """Ask the endpoint: the LLM scores this share of the candidates, and the deadline is far."""
    limits = {"max_llm_share": llm_share, "threshold": "-inf" if llm_share else "inf", "deadline_ms": 60_000}
    return http("/v1/score", {"user": {"id": user}, "candidates": [{"id": item} for item in items], **limits})


def rows_of(ports: dict[str, int], drawn: list[tuple[str, list[str]]], known: Pasts) -> list[Row]:
    """Return the lines of the table for the servers that run, those to compare beside each other."""
    crm_only = [question(user, items, 0) for user, items in drawn]
    found: list[Row] = []
    if port := ports.get("endpoint"):
        found.append(Row(CRM_ONLY, port, crm_only, counts_arms=True))
    found += [Row(SERVERS[name], ports[name], crm_only) for name in ("empty", "unserved", "plain") if name in ports]
    if "mlflow" in ports:
        split = [rows(known, user, items).to_dict(orient="split", index=False) for user, items in drawn]
        found.append(Row(MLFLOW, ports["mlflow"], [http("/invocations", {"dataframe_split": each}) for each in split]))
    if port := ports.get("endpoint"):
        found.append(Row(HEALTH, port, [http("/healthz")]))
        for share, name in ((0.1, "endpoint, 10 %"), (0.2, "endpoint, 20 %"), (1.0, LLM_ONLY)):
            found.append(Row(name, port, [question(*each, share) for each in drawn], counts_arms=True))
        some = [question(*each, float(number % EVERY == 0)) for number, each in enumerate(drawn)]
        found.append(Row(BY_REQUEST, port, some, counts_arms=True))
    return found


class Alone:
    """The models called in a process of their own, without HTTP."""

    def __init__(self, ensemble: str, temp: Path) -> None:
        command = yardstick("arms", ensemble, 0, temp)
        self.process = subprocess.Popen(
            command,
            env=environment(temp),
            cwd=ROOT,
            text=True,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def measure(self, drawn: list[tuple[str, list[str]]], llm: bool, bounds: Bounds) -> dict[str, float]:
        """Call the CRM, and the LLM about all candidates too if wanted, one request after the other."""
        took_s: list[float] = []
        for seconds in (bounds.warm_s, bounds.seconds):
            took_s = self._ask({"asks": drawn, "llm": llm, "requests": bounds.requests, "seconds": seconds})
        return {"requests_per_s": len(took_s) / sum(took_s), **percentiles_ms(took_s), "asked": len(took_s), "errors": 0, "fallbacks": 0}

    def wait(self) -> None:
        self._read()

    def _ask(self, content: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(content) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def environment(temp: Path) -> dict[str, str]:
    """Return what every process starts with: its own folders, one thread a model, no lower priority for Ray's workers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ray = {"RAY_TMPDIR": str(temp), "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**kept, **ray, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{temp}/mlflow.db"}


def yardstick(name: str, ensemble: str, port: int, temp: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("serving_yardsticks.py")), name, ensemble, str(port), str(temp)]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def started(ensemble: str, temp: Path, said: list[str]) -> Iterator[tuple[dict[str, int], Alone | None]]:
    """Start every server, yield the ports of those that answer, and end them all."""
    ports = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))
    processes: dict[str, subprocess.Popen[Any]] = {}
    for folder in (*SERVERS, "arms"):
        (temp / folder).mkdir()
    try:
        for name, port in ports.items():
            local = [sys.executable, "-m", "serving.local", "--model", ensemble, "--port", str(port), f"events=sqlite:///{temp}/events.db"]
            command = local if name == "endpoint" else yardstick(name, ensemble, port, temp / name)
            with (temp / f"{name}.log").open("wb") as log:
                kept = environment(temp / name)
                processes[name] = subprocess.Popen(command, env=kept, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        alone = Alone(ensemble, temp / "arms")
        processes["arms"] = alone.process
        yield {name: port for name, port in ports.items() if answers(name, port, processes[name], temp, said)}, ready(alone, said)
    finally:
        end(list(processes.values()))


def answers(name: str, port: int, process: subprocess.Popen[Any], temp: Path, said: list[str]) -> bool:
    """Wait until a server answers; where it does not, say so with the last line of its log."""
    until_s = time.monotonic() + START_S
    log = temp / f"{name}.log"
    while time.monotonic() < until_s and process.poll() is None:
        # The endpoint says so itself: its port is open before the application is there.
        if name not in ("endpoint", "empty") or b"serving " in log.read_bytes():
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                return True
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    said.append(f"{SERVERS[name]}: could not run: {lines[-1][:300]}")
    return False


def ready(alone: Alone, said: list[str]) -> Alone | None:
    try:
        alone.wait()
    except ValueError:
        said.append(f"{ALONE}: could not run")
        return None
    return alone


def end(processes: list[subprocess.Popen[Any]]) -> None:
    """Stop all as Ctrl-C does, and then whatever is left of them by force."""
    families: list[list[psutil.Process]] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            families.append(psutil.Process(process.pid).children(recursive=True))
    for process in processes:
        process.send_signal(signal.SIGINT)
    until_s = time.monotonic() + STOP_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until_s - time.monotonic()))
        process.kill()  # no harm where it has ended
    for child in (child for family in families for child in family):
        with contextlib.suppress(psutil.Error):
            child.kill()


Found = dict[tuple[str, int], list[dict[str, float]]]


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


def summary(found: Found) -> list[dict[str, Any]]:
    """Return a line a point: the median of the rounds; errors, fallbacks and requests of all of them."""
    lines: list[dict[str, Any]] = []
    for (name, clients), rounds in found.items():
        figures = {key: median(each[key] for each in rounds if key in each) for key in sorted({key for each in rounds for key in each})}
        counted = {key: sum(each[key] for each in rounds) for key in ("asked", "errors", "fallbacks")}
        lines.append({"row": name, "clients": clients, **{key: round(value, 4) for key, value in figures.items()}, **counted})
    return sorted(lines, key=lambda line: line["clients"])


def goals(found: Found) -> dict[str, dict[int, float]]:
    """Compare rows with the same number of clients round by round, and take the median; a row that could not run has none."""
    pairs = {
        "CRM-only p50 minus the empty Serve app's, ms (goal at 1 client: at most 3)": (CRM_ONLY, EMPTY, "p50_ms"),
        "requests/s at 20 % of requests over LLM-only (goal: at least 4)": (BY_REQUEST, LLM_ONLY, "requests_per_s"),
        "requests/s CRM-only over MLflow's": (CRM_ONLY, MLFLOW, "requests_per_s"),
    }
    compared: dict[str, dict[int, float]] = {}
    for says, (ours, theirs, key) in pairs.items():
        compared[says] = {}
        for clients in sorted(clients for row, clients in found if row == ours and (theirs, clients) in found):
            both = [(a[key], b[key]) for a, b in zip(found[ours, clients], found[theirs, clients], strict=True)]
            each = [a - b if key == "p50_ms" else a / b if b else float("nan") for a, b in both]
            compared[says][clients] = round(median(each), 2)
    return compared


def show(lines: list[dict[str, Any]], compared: dict[str, dict[int, float]], said: list[str]) -> None:
    """Print the table and the comparisons."""
    heads = ["clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "LLM cand.", "LLM req.", "errors", "fallbacks", "client CPU ms"]
    width = max((len(line["row"]) for line in lines), default=0)
    print(" " * width, *(f"{head:>13}" for head in heads))
    for line in lines:
        shares = [f"{line[key]:.1%}" if key in line else "-" for key in ("llm_candidates", "llm_requests")]
        times = [f"{line[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")]
        cpu = f"{line['client_cpu_ms']:.3f}" if "client_cpu_ms" in line else "-"
        cells = [line["clients"], f"{line['requests_per_s']:.1f}", *times, *shares, line["errors"], line["fallbacks"], cpu]
        print(f"{line['row']:<{width}}", *(f"{cell:>13}" for cell in cells))
    for says, values in compared.items():
        print(f"{says}: " + (", ".join(f"{value:g} with {clients} client{'s'[: clients > 1]}" for clients, value in values.items()) or "-"))
    print("\n".join(said))


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


if __name__ == "__main__":
    main()
