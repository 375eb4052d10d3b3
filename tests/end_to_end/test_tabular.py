"""A user's own shop: other column names, numbers, a context, no user table, some broken rows; and a BERT as the language model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.components.llm import families
from tests.end_to_end.command import SMALL, pipeline

pytestmark = pytest.mark.end_to_end
MAPPING = [
    "--dataset.interactions",
    "orders.parquet",
    "--dataset.items",
    "goods",
    "--dataset.user",
    "customer",
    "--dataset.item",
    "sku",
    "--dataset.label",
    "bought",
    "--dataset.time",
    "at",
    "--dataset.title",
    "name",
    "--dataset.item-noun",
    "product",
    "--dataset.item-numeric",
    "price",
    "--dataset.item-categorical",
    "brand",
    "--dataset.context-categorical",
    "device",
    "--dataset.context-numeric",
    "discount",
]
BROKEN = 12


@pytest.fixture(scope="module")
def shop(short_folder: Path) -> Path:
    """3,000 orders of 60 customers over 80 goods; cheap goods sell, on mobile more so; 12 rows are broken."""
    random = np.random.default_rng(0)
    folder = short_folder / "shop"
    (folder / "goods").mkdir(parents=True)
    price = random.uniform(1, 100, 80).round(2)
    goods = pd.DataFrame({"sku": [f"s{number}" for number in range(80)], "name": [f"Thing {number}" for number in range(80)]})
    goods = goods.assign(price=price, brand=random.choice(["Acme", "Bolt", "Core"], 80))
    goods.iloc[:40].to_parquet(folder / "goods" / "a.parquet")
    goods.iloc[40:].to_parquet(folder / "goods" / "b.parquet")
    item, customer = random.integers(80, size=3000), random.integers(60, size=3000)
    mobile, discount = random.random(3000) < 0.5, random.uniform(0, 0.5, 3000)
    p = 1 / (1 + np.exp((price[item] - 50) / 12 - mobile - 2 * discount))
    orders = pd.DataFrame(
        {
            "customer": [f"c{number}" for number in customer],
            "sku": goods["sku"].to_numpy()[item],
            "bought": (random.random(3000) < p).astype(int),
            "at": pd.date_range("2024-01-01", periods=3000, freq="1h"),
            "device": np.where(mobile, "mobile", "desktop"),
            "discount": discount,
        }
    )
    orders.loc[10:15, "customer"] = None
    orders.loc[20:25, "sku"] = "unknown"
    orders.to_parquet(folder / "orders.parquet")
    return folder


def test_a_shop_goes_through_the_whole_pipeline(shop: Path, short_folder: Path) -> None:
    output = short_folder / "shop-run"
    encoder = ["--llm.path", str(families.save("bert", short_folder / "bert"))]
    alone = ["--train.workers", "1"]
    done = pipeline(short_folder, "tabular", "--data", str(shop), "--output", str(output), *MAPPING, *SMALL, *encoder, *alone)
    assert done.returncode == 0, done.stderr[-4000:]
    quarantine = pd.read_parquet(output / "tables" / "quarantine.parquet")
    assert len(quarantine) == BROKEN
    assert sorted(quarantine["row"]) == [*range(11, 17), *range(21, 27)]
    assert set(quarantine["reason"]) == {"null user_id", "item without metadata"}
    metrics = json.loads((output / "report" / "metrics.json").read_text())
    assert metrics["test"]["crm"]["auc"] > 0.75
    scores = pd.read_parquet(output / "scores")
    assert scores["user_id"].str.startswith("c").all()
    assert scores["p_llm"].nunique() > 10
    assert not (output / "backbone").exists()
    assert json.loads((output / "checkpoints" / "llm" / "config.json").read_text())["model_type"] == "bert"


def test_a_missing_column_is_named_with_its_file(shop: Path, short_folder: Path) -> None:
    wrong = [word if word != "bought" else "baught" for word in MAPPING]
    done = pipeline(short_folder, "tabular", "--data", str(shop), "--output", str(short_folder / "x"), *wrong)
    assert done.returncode == 1
    assert "baught" in done.stderr
    assert "orders.parquet" in done.stderr
