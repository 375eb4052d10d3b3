"""The figures of all rounds as a table, and the comparisons that the goals are about."""

from __future__ import annotations

from statistics import median
from typing import Any

from outcome import NOT_RUN, Outcome
from serving_rows import BY_REQUEST, CRM_ONLY, LLM_ONLY
from serving_servers import EMPTY, MLFLOW, SERVERS

Found = dict[tuple[str, int], list[dict[str, float]]]  # a row with a number of clients -> its figures, round by round
SERVED = {"an empty Serve app": EMPTY, "FastAPI + uvicorn": SERVERS["plain"], "MLflow's server": MLFLOW}


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


def outcomes(found: Found) -> list[Outcome]:
    """Put the rows that goals and comparisons are about into the form of all benchmarks, for each number of clients."""
    medians = {point: median(each["requests_per_s"] for each in rounds) for point, rounds in found.items()}
    listed: list[Outcome] = []
    for clients in sorted({clients for row, clients in found if row == CRM_ONLY}):
        many = f"{clients} client{'s'[: clients > 1]}"
        servers = {name: medians.get((row, clients), NOT_RUN) for name, row in SERVED.items()}
        listed.append(Outcome(f"serving 100 candidates, CRM only, {many}", "requests/s", medians[CRM_ONLY, clients], servers, {}))
        if (BY_REQUEST, clients) in found and (LLM_ONLY, clients) in found:
            by_request, llm_only = medians[BY_REQUEST, clients], medians[LLM_ONLY, clients]
            subject = f"serving 100 candidates, the LLM for 20 % of the requests, {many}"
            listed.append(Outcome(subject, "requests/s", by_request, {"LLM for all": llm_only}, {"LLM for all": 4.0}))
    beyond, by_clients = next(iter(goals(found).items()))
    listed += [Outcome(f"serving: {beyond}", "ms", value, {}, {}) for clients, value in by_clients.items() if clients == 1]
    return listed


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
