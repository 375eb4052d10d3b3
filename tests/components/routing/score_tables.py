"""Made-up score tables whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd


def score_table(rows: int = 6_000, users: int = 150, seed: int = 0, llm_knows_new_items: bool = True) -> pd.DataFrame:
    """Return a validation table in which the CRM is good at known items and poor at new ones (a quarter of the rows).

    The LLM is the other way round, or, where it does not know new items, noise.
    """
    random = np.random.default_rng(seed)
    user = random.integers(users, size=rows)
    popularity = np.where(random.random(rows) < 0.25, 0, random.geometric(0.02, size=rows))
    new = popularity == 0
    truth = 1.2 * random.normal(size=rows) + 0.5 * random.normal(size=users)[user]
    crm = np.where(new, 0.2, 0.9) * truth + 0.5 * random.normal(size=rows)
    llm = np.where(new, 0.9, 0.1) * truth if llm_knows_new_items else 0.0 * truth
    return pd.DataFrame(
        {
            "split": "valid",
            "user_id": np.char.add("user-", user.astype(str)),
            "item_id": random.integers(500, size=rows).astype(str),
            "timestamp_s": 1_000_000_000 + random.integers(rows // 10, size=rows),
            "label": (random.random(rows) < _sigmoid(truth)).astype(np.int8),
            "p_crm": _sigmoid(crm),
            "p_llm": _sigmoid(1.5 * llm + 0.5 * random.normal(size=rows)),
            "earlier_count": random.integers(0, 200, size=rows).astype(np.int32),
            "item_popularity": popularity.astype(np.int64),
            "user_popularity": np.where(user % 10 == 0, 0, 40).astype(np.int64),
        }
    )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
