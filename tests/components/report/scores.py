"""Score tables and searches to report on: one small enough for paper and pencil, one drawn from a seeded generator."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd

from components.report.evaluation import Config, RunFacts, Search
from components.routing.calibration import Identity
from components.routing.fit import Spec, fit_policy
from components.routing.policy import Policy
from components.routing.router import EntropyRouter

SHARES = (0.1, 0.2, 0.3, 0.5, 1.0)
QUICK = Config(bootstrap_draws=40, random_draws=5)
MIX = Spec("gain", 0.2, "mix", 0.6, "platt", "platt")


def by_hand() -> pd.DataFrame:
    """Two users, four requests, six rows."""
    return pd.DataFrame(
        {
            "split": "test",
            "user_id": ["a", "a", "a", "b", "b", "b"],
            "item_id": ["1", "2", "3", "1", "2", "3"],
            "timestamp_s": [1, 1, 2, 1, 1, 2],
            "label": np.array([1, 0, 1, 0, 1, 0], np.int8),
            "p_crm": [0.9, 0.2, 0.4, 0.6, 0.7, 0.1],
            "p_llm": [0.8, 0.3, 0.6, 0.2, 0.5, 0.4],
            "earlier_count": np.array([5, 6, 20, 12, 13, 400], np.int32),
            "item_popularity": [0, 3, 40, 0, 3, 40],
            "user_popularity": [7, 7, 7, 0, 0, 0],
        }
    )


def generated(rows: int, seed: int, split: str, users: int = 40) -> pd.DataFrame:
    """Rows whose click the CRM knows well except for new items, which the LLM knows better."""
    random = np.random.default_rng(seed)
    popularity = np.where(random.random(rows) < 0.3, 0, random.geometric(0.02, rows))
    z = random.normal(size=rows) * 1.5
    crm = np.where(popularity == 0, 0.2 * z, 0.9 * z) + random.normal(size=rows) * 0.5
    llm = np.where(popularity == 0, 1.4 * z, 0.5 * z) + random.normal(size=rows) * 0.6
    return pd.DataFrame(
        {
            "split": split,
            "user_id": [f"u{number}" for number in random.integers(users, size=rows)],
            "item_id": [f"i{number}" for number in random.integers(200, size=rows)],
            "timestamp_s": random.integers(1000, 1000 + rows // 4, size=rows),
            "label": (random.random(rows) < 1 / (1 + np.exp(-z))).astype(np.int8),
            "p_crm": 1 / (1 + np.exp(-crm)),
            "p_llm": 1 / (1 + np.exp(-1.5 * llm)),
            "earlier_count": random.geometric(0.02, rows).astype(np.int32),
            "item_popularity": popularity.astype(np.int64),
            "user_popularity": random.integers(0, 2, rows),
        }
    )


def doubting() -> Policy:
    """Take the LLM's answer where the CRM's entropy is above 0.65 nats: where its p is between 0.36 and 0.64."""
    return Policy(EntropyRouter(), 0.65, "replace", 1.0, Identity(), Identity(), "candidate", 0.5, 0.3)


def searched(valid: pd.DataFrame, policy: Policy) -> Search:
    """A finished search that found MIX best everywhere."""
    policies = {share: fit_policy(valid, Spec(**{**asdict(MIX), "share": share})) for share in SHARES}
    front = [{"router": "never", "target_share": 0.0}, *({**asdict(MIX), "target_share": share} for share in (0.1, 0.2))]
    return Search(policy, policies, pd.DataFrame(front), 12, "On validation it says so.", {"difference": 0.01, "low": 0.0, "high": 0.02})


def facts(test: pd.DataFrame, recipe: str = "demo") -> RunFacts:
    return RunFacts(
        recipe=recipe,
        synthetic=True,
        rows={"train": 100, "valid": 50, "test": len(test)},
        label_rate={"train": 0.5, "valid": 0.5, "test": float(np.mean(test["label"]))},
        quarantine={"interactions: rating above 5": 2},
        stages={"prepare": {"seconds": 2.5, "rate": 40.0, "unit": "rows/s"}, "tune": {"seconds": 75.0, "rate": None, "unit": None}},
        best_auc=0.9,
    )


LOG = [
    {"stage": "joint", "step": 20, "steps": 40, "rate": 1e-3, "train_loss": 1.5, "train_crm_loss": 0.7, "train_alignment_loss": 3.0},
    {"stage": "joint", "step": 40, "steps": 40, "rate": 1e-3, "train_loss": 1.2, "train_crm_loss": 0.6, "train_alignment_loss": 1.0},
    {"stage": "joint", "step": 40, "epoch": 1, "valid_crm_auc": 0.7, "valid_crm_logloss": 0.61, "valid_llm_logloss": float("nan")},
]
