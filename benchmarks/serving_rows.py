"""What the lines of the table ask: the same users and items of every server that runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from serving_clients import Row
from serving_servers import EMPTY, MLFLOW, MLFLOW_BARE, SERVERS
from serving_yardsticks import EMPTY_PREFIX, HOST, LARGE_PATH, MODELS_PREFIX, Pasts, row, rows

CANDIDATES = 100
BODIES = 40  # different requests a row
EVERY = 5  # 20 % of the requests: each fifth one
CRM_ONLY, LLM_ONLY, BY_REQUEST = "endpoint, LLM share 0 %", "100 %", "20 % of requests"
CRM_AGAIN = f"{CRM_ONLY}, again"  # beside other servers than before
HEALTH, EMPTY_LARGE = "endpoint, GET /healthz", f"{EMPTY}, an answer as large as the endpoint's"
EMPTY_MODELS = f"{EMPTY} with the same CRM"
SHARES = {0.1: "10 %", 0.2: "20 %", 1.0: LLM_ONLY}


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


def question(user: str, items: list[str], llm_share: float, path: str = "/v1/score") -> bytes:
    """Ask the endpoint: the LLM scores this share of the candidates, and the deadline is far."""
    limits = {"max_llm_share": llm_share, "threshold": "-inf" if llm_share else "inf", "deadline_ms": 60_000}
    return http(path, {"user": {"id": user}, "candidates": [{"id": item} for item in items], **limits})


def invocation(frame: pd.DataFrame) -> bytes:
    """Ask MLflow's scoring server."""
    return http("/invocations", {"dataframe_split": frame.to_dict(orient="split", index=False)})


def beside_serve(port: int, drawn: list[tuple[str, list[str]]]) -> list[Row]:
    """Return the lines of the endpoint and of the Serve applications beside it that do less."""

    def crm_only(path: str) -> list[bytes]:
        return [question(*each, 0, path) for each in drawn]

    return [
        Row(CRM_ONLY, port, crm_only("/v1/score"), counts_arms=True),
        Row(EMPTY, port, crm_only(f"{EMPTY_PREFIX}/v1/score")),
        Row(EMPTY_LARGE, port, crm_only(f"{EMPTY_PREFIX}{LARGE_PATH}")),
        Row(EMPTY_MODELS, port, crm_only(f"{MODELS_PREFIX}/v1/score")),
        Row(HEALTH, port, [http("/healthz")]),
        *routed("endpoint", port, drawn),
    ]


def beside_others(endpoint: int, ports: dict[str, int], drawn: list[tuple[str, list[str]]], known: Pasts) -> list[Row]:
    """Return the lines of the endpoint and of what is no Serve application."""
    crm_only = [question(user, items, 0) for user, items in drawn]
    found = [Row(CRM_AGAIN, endpoint, crm_only, counts_arms=True)]
    found += [Row(SERVERS[name], ports[name], crm_only) for name in ("unserved", "plain") if name in ports]
    if "mlflow" in ports:
        found.append(Row(MLFLOW, ports["mlflow"], [invocation(rows(known, *each)) for each in drawn]))
    if "mlflow_bare" in ports:
        found.append(Row(MLFLOW_BARE, ports["mlflow_bare"], [invocation(row(*each)) for each in drawn]))
    if port := ports.get("plain"):
        found += shares("plain FastAPI + uvicorn, CRM and LLM", port, drawn)
    return found


def routed(name: str, port: int, drawn: list[tuple[str, list[str]]]) -> list[Row]:
    """Return the lines of an endpoint that asks its LLM: for a share of each request's candidates, and of the requests."""
    some = [question(*each, float(number % EVERY == 0)) for number, each in enumerate(drawn)]
    return [*shares(name, port, drawn), Row(f"{name}, {BY_REQUEST}", port, some, counts_arms=True)]


def shares(name: str, port: int, drawn: list[tuple[str, list[str]]]) -> list[Row]:
    return [
        Row(f"{name}, {percent}", port, [question(*each, share) for each in drawn], counts_arms=True) for share, percent in SHARES.items()
    ]
