"""A trained CRM on disk: its weights and the configuration that rebuilds it."""

from __future__ import annotations

from pathlib import Path

import fsspec
from safetensors.torch import load, save_file
from torch import nn

from components import artifacts
from components.crm import Crm, CrmConfig
from components.crm import build as build_crm
from components.types import CrmInputs


def save_crm(crm: nn.Module, config: CrmConfig, folder: Path) -> None:
    """Write a CRM's weights and the config that rebuilds it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in crm.state_dict().items()}, folder / "model.safetensors")
    artifacts.write_json(str(folder / "config.json"), config)


def load_crm(uri: str, inputs: CrmInputs) -> Crm:
    """Read back what `save_crm` wrote, ready to answer."""
    crm = build_crm(artifacts.from_plain(CrmConfig, artifacts.read_json(artifacts.join(uri, "config.json"))), inputs)
    with fsspec.open(artifacts.join(uri, "model.safetensors"), "rb") as file:
        crm.load_state_dict(load(file.read()))  # pyright: ignore[reportAttributeAccessIssue]
    return crm.eval()
