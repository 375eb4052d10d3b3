"""Files of torch are pickles: what is no tensor is not let in, and never run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from components.errors import ArtifactError
from components.joint import torch_file
from tests.components.joint.traps import Trap


def test_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    torch.save({"weights": torch.arange(3), "steps": 4, "rates": [0.5]}, tmp_path / "state.pt")
    found = torch_file.read(tmp_path / "state.pt", "cpu")
    assert (found["weights"].tolist(), found["steps"], found["rates"]) == ([0, 1, 2], 4, [0.5])


def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path) -> None:
    torch.save({"weights": torch.arange(3), "extra": Trap(tmp_path / "marker")}, tmp_path / "state.pt")
    with pytest.raises(ArtifactError, match=f"{tmp_path}/state.pt: expected tensors and plain values"):
        torch_file.read(tmp_path / "state.pt", "cpu")
    assert not (tmp_path / "marker").exists()
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert (tmp_path / "marker").exists(), "the trap works where it is let in"


def test_a_record_is_let_in_by_name_alone(tmp_path: Path) -> None:
    torch.save(Namespace(a=2), tmp_path / "state.pt")
    with pytest.raises(ArtifactError):
        torch_file.read(tmp_path / "state.pt", None, (Path,))
    assert torch_file.read(tmp_path / "state.pt", None, (Namespace,)) == Namespace(a=2)
