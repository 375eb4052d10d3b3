"""From samples to batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.features.tables import load_store, read_samples
from components.joint.data import Inputs, Window, Windows
from components.llm import backbone
from tests.components.joint import prepared

pytestmark = pytest.mark.slow  # for the prepared data that the slow ones share


@pytest.fixture(scope="module")
def inputs(data: Path) -> Inputs:
    layout = backbone.load_encoder(backbone.Config(path=str(data / "backbone")), prepared.MAX_TOKENS).layout
    return Inputs(load_store(str(data / "tables")), layout, crm=True, llm=True)


def test_the_columns_that_the_models_read_are_enough(data: Path, inputs: Inputs) -> None:
    uri, rows = str(data / "prompts" / "joint"), torch.arange(5).numpy()
    found = Window(read_samples(uri, inputs.columns), inputs).batch(rows)
    expected = Window(read_samples(uri), inputs).batch(rows)
    assert torch.equal(found.label_B, expected.label_B)
    assert found.crm is not None
    assert expected.crm is not None
    assert found.tokens is not None
    assert expected.tokens is not None
    assert torch.equal(found.crm.history_ids_BL, expected.crm.history_ids_BL)
    assert torch.equal(found.tokens.token_ids_BT, expected.tokens.token_ids_BT)
    assert Inputs(inputs.store, inputs.layout, crm=False, llm=True).columns == ["label", "token_ids"]
    assert Inputs(inputs.store.without_history(), inputs.layout, crm=True, llm=False).columns == ["label", "user_row", "item_row"]


def test_the_latest_window_is_kept_and_no_other(data: Path, inputs: Inputs) -> None:
    windows, first, second = Windows(inputs), *(read_samples(str(data / "prompts" / name)) for name in ("joint", "llm"))
    held = windows.of(first)
    assert windows.of(first) is held
    assert windows.of(second) is not held
    assert windows.of(first) is not held
