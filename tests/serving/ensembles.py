"""A small ensemble as the pipeline leaves it, with models that nobody trained: the same in every run."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from components import artifacts
from components.crm import CrmConfig
from components.crm import build as build_crm
from components.features.latest import latest_histories, save_histories
from components.features.tables import STORE_FILES, load_store
from components.joint.crm_files import save_crm
from components.routing.calibration import Identity
from components.routing.policy import Policy
from components.routing.router import EntropyRouter
from tests.components.joint import prepared

HISTORY_LENGTH = 6
# Between the entropies of the untrained CRM's answers: some candidates of every user go to either arm.
POLICY = Policy(EntropyRouter(), 0.45, "mix", 0.7, Identity(), Identity(), "candidate", 0.5, 0.5)
CURVE = [
    {"threshold": "inf", "llm_share": 0.0, "auc": 0.6, "logloss": 0.69},
    {"threshold": "-inf", "llm_share": 1.0, "auc": 0.7, "logloss": 0.68},
]


def make(folder: Path, policy: Policy = POLICY, seed: int = 0) -> Path:
    """Write the artifact `ensemble/` below `folder`, the prepared data set it stands on beside it, and return it.

    Each seed has a CRM and an LLM of its own.
    """
    data = folder / "data"
    if not data.exists():
        data.mkdir(parents=True)
        prepared.make(data)
    tables, target = data / "tables", folder / "ensemble"
    config = CrmConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        crm = build_crm(config, load_store(str(tables)).inputs)
        for weight in crm.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    with artifacts.create(str(target), f"seed-{seed}", ()) as (aside, _):
        save_crm(crm, config, Path(aside) / "crm")
        shutil.copytree(data / "backbone", Path(aside) / "llm")
        _shift(Path(aside, "llm", "model.safetensors"), seed)
        for name in STORE_FILES:
            shutil.copy(tables / name, aside)
        (tables / "test").mkdir(exist_ok=True)
        for part in (tables / "valid").iterdir():
            shutil.copy(part, tables / "test")
        save_histories(latest_histories(str(tables), HISTORY_LENGTH), aside)
        artifacts.write_json(f"{aside}/policy.json", policy.to_json())
        artifacts.write_json(f"{aside}/prompts.json", {"history_length": 4, "max_tokens": prepared.MAX_TOKENS})
        artifacts.write_json(f"{aside}/curve.json", CURVE)
    return target


def _shift(weights: Path, seed: int) -> None:
    """Make the LLM of a seed another than that of seed 0."""
    random = torch.Generator().manual_seed(seed)
    tensors = load_file(weights)
    shifted = {name: tensor + 0.1 * min(seed, 1) * torch.randn(tensor.shape, generator=random) for name, tensor in tensors.items()}
    save_file(shifted, weights, {"format": "pt"})
