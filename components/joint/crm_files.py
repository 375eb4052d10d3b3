"""A trained CRM: its weights and configuration on disk, and its scores of samples."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save_file
from torch import nn

from components import artifacts, storage
from components.crm import Crm, CrmConfig
from components.crm import build as build_crm
from components.features.store import FeatureStore
from components.types import CrmInputs


def save_crm(crm: nn.Module, config: CrmConfig, folder: Path) -> None:
    """Write a CRM's weights and the config that rebuilds it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in crm.state_dict().items()}, folder / "model.safetensors")
    artifacts.write_json(str(folder / "config.json"), config)


def load_crm(uri: str, inputs: CrmInputs) -> Crm:
    """Read back what `save_crm` wrote, ready to answer."""
    crm = build_crm(artifacts.from_plain(CrmConfig, artifacts.read_json(artifacts.join(uri, "config.json"))), inputs)
    with storage.open_file(artifacts.join(uri, "model.safetensors")) as file:
        crm.load_state_dict(load(file.read()))
    return crm.eval()


def score_crm(crm: Crm, store: FeatureStore, samples: pa.Table) -> dict[str, NDArray]:
    """Return the CRM's click probability of each sample, and what routers know of it before any model is asked."""
    store = store if crm.inputs.reads_history else store.without_history()
    columns = store.columns(samples)
    with torch.inference_mode():
        p_crm = torch.sigmoid(crm(store.batch(columns)).logits_B.double()).numpy()
    return {
        "p_crm": p_crm,
        "item_popularity": store.encoded_items.train_count_R[columns["item_row"]],
        "user_popularity": store.encoded_users.train_count_R[columns["user_row"]],
    }
