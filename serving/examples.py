"""Requests that run as they stand on the model that is served: what the OpenAPI document shows."""

from __future__ import annotations

from typing import Any

from components.features.store import FeatureStore

TIMESTAMP_S = 1_700_000_000


def examples(store: FeatureStore) -> dict[str, dict[str, Any]]:
    """Return a question and an event by the last part of their routes: the first user, the first two items, the best rating."""
    user, items = str(store.users["user_id"].iloc[0]), store.items["item_id"].head(2).tolist()
    return {
        "score": {"user": {"id": user}, "candidates": [{"id": item} for item in items]},
        "rank": {"user": {"id": user}, "k": 5},
        "events": {
            "event_id": "example-1",
            "user_id": user,
            "item_id": items[-1],
            "rating": store.schema.rating_max,
            "timestamp_s": TIMESTAMP_S,
        },
    }
