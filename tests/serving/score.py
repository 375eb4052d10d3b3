"""Asking `/v1/score`, and reading its answers."""

from __future__ import annotations

from typing import Any

from tests.serving.http_server import Called

SCALE = [f"i{row}" for row in range(24)]
SECOND_S = 20.0  # within which even a busy machine answers


def ask(http: Called, items: list[Any], user: Any = "u0", **more: Any) -> dict[str, Any]:
    """Score items, given by their ids or described."""
    user = user if isinstance(user, dict) else {"id": user}
    return http.post("/v1/score", {"user": user, "candidates": [{"id": item} if isinstance(item, str) else item for item in items], **more})


def scores(answer: dict[str, Any]) -> list[float]:
    return [result["score"] for result in answer["results"]]


def ids(answer: dict[str, Any]) -> list[str]:
    return [result["id"] for result in answer["results"]]


def arms(answer: dict[str, Any]) -> list[str]:
    return [result["arm"] for result in answer["results"]]
