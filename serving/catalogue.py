"""What the page looks up: users and their histories, items, the policy with its measured curve."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
import pandas as pd
from fastapi import APIRouter, HTTPException, Query

from components.prompts.textualize import item_texts, title_texts, user_texts
from serving.schemas import Error, Id
from serving.service import Service

LOOKUP_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": Error, "description": "the key is missing or wrong"},
    413: {"model": Error, "description": "the body is too large"},
    421: {"model": Error, "description": "the Host is no name of this machine, and nobody is asked for a key"},
    422: {"model": Error, "description": "a field is wrong"},
    503: {"model": Error, "description": "busy, or the store of events is away: try again"},
}
MAX_USERS = 200
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Error, "description": "nothing is known of this user"}}


def catalogue_routes(service: Service) -> APIRouter:
    """Return the routes below `/v1` that only look things up."""
    routes, store = APIRouter(prefix="/v1", tags=["catalogue"], responses=LOOKUP_ERRORS), service.store
    resolver = service.resolver
    busiest = np.argsort(-store.encoded_users.train_count_R, kind="stable")[:MAX_USERS]

    @routes.get("/users", summary="Some users, the most active ones first")
    async def users(limit: Annotated[int, Query(ge=1, le=MAX_USERS)] = 50) -> dict[str, Any]:
        rows = store.users.iloc[busiest[:limit]]
        return {"users": [{"id": user, "profile": text} for user, text in zip(rows["user_id"], _profiles(rows), strict=True)]}

    # A path, for ids that hold a slash.
    @routes.get("/users/{user_id:path}", responses=NOT_FOUND, summary="A user's profile and latest history, oldest first")
    async def user(user_id: Id) -> dict[str, Any]:
        history = await service.histories.of(user_id)
        row = resolver.user_row(user_id)
        if row < 0 and not history.earlier_count:
            raise HTTPException(404, "expected a user that is known or has a history")
        profile = "" if row < 0 else _profiles(store.users.iloc[[row]])[0]
        known, rows = _known(item for item, _ in history.latest)
        titles = dict(zip(known, title_texts(rows, store.schema), strict=True))
        entries = [{"item_id": item, "title": titles.get(item, item), "rating": rating} for item, rating in history.latest]
        return {"id": user_id, "profile": profile, "earlier_count": history.earlier_count, "history": entries}

    @routes.get("/items", summary="Items by their ids; unknown ids are left out")
    async def items(item_id: Annotated[list[Id], Query(min_length=1, max_length=500)]) -> dict[str, Any]:
        known, rows = _known(item_id)
        titles, texts = title_texts(rows, store.schema), item_texts(rows, store.schema)
        return {"items": [{"id": key, "title": title, "text": text} for key, title, text in zip(known, titles, texts, strict=True)]}

    @routes.get("/policy", summary="The policy in words, its budget, and what it measured on test at other thresholds")
    async def policy() -> dict[str, Any]:
        return {
            "policy": service.policy.to_json(),
            "refused": service.live.refusal,
            "curve": service.curve,
            "synthetic": store.schema.synthetic,
            "item_noun": store.schema.item_noun,
            "model_version": service.model_version,
            "policy_version": service.policy_version,
        }

    def _profiles(rows: pd.DataFrame) -> list[str]:
        return user_texts(rows, store.schema)

    def _known(items: Iterable[str]) -> tuple[list[str], pd.DataFrame]:
        """Return the known ones with their rows: all at once, for a table of one row takes as long as one of a hundred."""
        known = [item for item in dict.fromkeys(items) if resolver.knows_item(item)]
        return known, store.items.iloc[[resolver.item_row(item) for item in known]]

    return routes
