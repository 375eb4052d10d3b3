"""Where each arm is strong: the test rows cut by the CRM's confidence, by what the policy asked, by history and by popularity."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.report.bench import Bench
from components.routing.policy import Routes
from components.routing.signals import entropy

CONFIDENCE = ("most confident", "middle", "least confident")
HISTORY_EDGES = (0, 10, 30, 100, 300)  # earlier interactions of the user (ours)
POPULARITY_EDGES = (0, 1, 10, 100, 1000)  # train interactions of the item (ours)
USER_EDGES = (0, 1)
SHOWN = ("auc", "logloss", "accuracy")
Segment = dict[str, Any]


def segments(bench: Bench, routes: Routes) -> dict[str, list[Segment]]:
    """Return the tables by their names; a segment without rows is left out."""
    rows = bench.rows
    return {
        "confidence": _table(bench, routes, list(zip(CONFIDENCE, confidence_groups(bench), strict=True))),
        "asked": _table(bench, routes, [("asked the LLM", routes.arm == "llm"), ("left to the CRM", routes.arm == "crm")]),
        "history": _table(bench, routes, _buckets(rows["earlier_count"], HISTORY_EDGES)),
        "item_popularity": _table(bench, routes, _buckets(rows["item_popularity"], POPULARITY_EDGES, "new item")),
        "user_popularity": _table(bench, routes, _buckets(rows["user_popularity"], USER_EDGES, "new user")),
    }


def confidence_groups(bench: Bench) -> list[NDArray[np.bool_]]:
    """Cut the rows into thirds by the CRM's entropy, as CoReLLa's pilot study does (arXiv 2403.16378); the most confident first."""
    order = np.argsort(entropy(bench.rows["p_crm"]), kind="stable")
    masks = np.zeros((len(CONFIDENCE), bench.size), np.bool_)
    for mask, part in zip(masks, np.array_split(order, len(CONFIDENCE)), strict=True):
        mask[part] = True
    return list(masks)


def _table(bench: Bench, routes: Routes, groups: list[tuple[str, NDArray[np.bool_]]]) -> list[Segment]:
    return [_segment(bench, routes, name, mask) for name, mask in groups if mask.any()]


def _segment(bench: Bench, routes: Routes, name: str, where: NDArray[np.bool_]) -> Segment:
    answers = {"crm": bench.rows["p_crm"], "llm": bench.rows["p_llm"], "routed": routes.p_routed}
    measured = {arm: bench.measure(p, where) for arm, p in answers.items()}
    return {
        "name": name,
        "rows": int(where.sum()),
        "label_rate": float(bench.rows["label"][where].mean()),
        "llm_share": float((routes.arm[where] == "llm").mean()),
        **{arm: {metric: figures[metric] for metric in SHOWN} for arm, figures in measured.items()},
    }


def _buckets(values: NDArray[Any], edges: tuple[int, ...], none: str = "") -> list[tuple[str, NDArray[np.bool_]]]:
    """Cut rows at the edges; `none` names the bucket of 0 alone."""
    named = [
        (none if none and high == 1 else f"{low:,} to {high - 1:,}", (values >= low) & (values < high)) for low, high in pairwise(edges)
    ]
    return [*named, (f"{edges[-1]:,} or more", values >= edges[-1])]
