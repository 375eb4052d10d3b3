"""The figures of all rounds as a table, and the comparisons that the goals are about."""

from __future__ import annotations

from statistics import median
from typing import Any

from outcome import NOT_RUN, Outcome
from serving_rows import BY_REQUEST, CRM_AGAIN, CRM_ONLY, EMPTY_MODELS, LLM_ONLY
from serving_servers import EMPTY, MLFLOW, MLFLOW_BARE, SERVERS, UNCACHED

Found = dict[tuple[str, int], list[dict[str, float]]]  # a row with a number of clients -> its figures, round by round
BESIDE_SERVE = {"an empty Serve app": EMPTY, "an empty Serve app with the same CRM": EMPTY_MODELS}
BESIDE_OTHERS = {"FastAPI + uvicorn": SERVERS["plain"], "MLflow's server": MLFLOW, "MLflow's server, the bare CRM": MLFLOW_BARE}
ENDPOINTS = (SERVERS["endpoint"], SERVERS[UNCACHED])


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
        f"CRM-only p50 minus the {EMPTY}'s, ms (goal at 1 client: at most 3)": (CRM_ONLY, EMPTY, "p50_ms"),
        f"CRM-only p50 minus that of an {EMPTY_MODELS}, ms": (CRM_ONLY, EMPTY_MODELS, "p50_ms"),
        "requests/s CRM-only over MLflow's": (CRM_AGAIN, MLFLOW, "requests_per_s"),
        "requests/s CRM-only over MLflow's with the bare CRM": (CRM_AGAIN, MLFLOW_BARE, "requests_per_s"),
    }
    for name in ENDPOINTS:
        says = f"{name}, requests/s at 20 % of requests over LLM-only (goal: at least 4)"
        pairs[says] = (f"{name}, {BY_REQUEST}", f"{name}, {LLM_ONLY}", "requests_per_s")
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
        for row, others, beside in ((CRM_ONLY, BESIDE_SERVE, "Serve"), (CRM_AGAIN, BESIDE_OTHERS, "no Serve")):
            servers = {says: medians.get((name, clients), NOT_RUN) for says, name in others.items()}
            ours = medians.get((row, clients), NOT_RUN)
            listed.append(Outcome(f"serving 100 candidates, CRM only, {many}, against {beside}", "requests/s", ours, servers, {}))
        for name, histories in zip(ENDPOINTS, ("known", "new"), strict=True):
            by_request, llm_only = ((f"{name}, {kind}", clients) for kind in (BY_REQUEST, LLM_ONLY))
            subject = f"serving 100 candidates, the LLM for 20 % of the requests, histories {histories} to it, {many}"
            peers = {"LLM for all": medians.get(llm_only, NOT_RUN)}
            listed.append(Outcome(subject, "requests/s", medians.get(by_request, NOT_RUN), peers, {"LLM for all": 4.0}))
    for says, by_clients in goals(found).items():
        if "p50" in says:
            listed += [Outcome(f"serving: {says}", "ms", value, {}, {}) for clients, value in by_clients.items() if clients == 1]
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
