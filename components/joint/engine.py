"""An engine turns a joint model's loss into a step; the plain one averages gradients over workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from components.joint.model import JointBatch, JointModel, JointOutput

ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    weight_decay: float = 0.0


class Engine(Protocol):
    """One model in training: `step` on micro-batches that together are one optimizer step."""

    model: JointModel

    def step(self, micro_batches: Sequence[JointBatch], rate: float) -> dict[str, float]:
        """Descend once with every group's learning rate times `rate`; return the loss and its parts, mean of the micro-batches."""
        ...

    def evaluate(self, batch: JointBatch) -> JointOutput:
        """Run the forward alone; every worker must call it equally often."""
        ...

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the trained weights of a part of the model, whole and in fp32, on every worker: no frozen ones."""
        ...

    def save(self, folder: Path) -> None:
        """Write this worker's part of what `load` needs to go on with the very next step."""
        ...

    def load(self, folder: Path) -> None: ...


def adamw(groups: Sequence[ParameterGroup]) -> torch.optim.AdamW:
    """Make AdamW; each group keeps its own peak rate as `peak`."""
    plain = [
        {"params": list(group.parameters), "lr": group.learning_rate, "peak": group.learning_rate, "weight_decay": group.weight_decay}
        for group in groups
    ]
    return torch.optim.AdamW(plain, betas=ADAM_BETAS)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to its peak times `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate


class TorchEngine:
    """Plain data parallelism: gradients averaged over workers, everything else on each."""

    def __init__(self, model: JointModel, groups: Sequence[ParameterGroup], device: str, gradient_clipping: float) -> None:
        self.model, self._device, self._clipping = model.to(device), device, gradient_clipping
        self._optimizer = adamw(groups)
        distributed = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        self._parallel = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=False) if distributed else self.model

    def step(self, micro_batches: Sequence[JointBatch], rate: float) -> dict[str, float]:
        set_rate(self._optimizer, rate)
        self.model.train()
        outputs: list[JointOutput] = []
        for position, batch in enumerate(micro_batches):
            with self._no_sync(last=position + 1 == len(micro_batches)):
                outputs.append(self._parallel(batch.to(self._device)))
                (outputs[-1].loss / len(micro_batches)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._clipping)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return mean_losses(outputs)

    def evaluate(self, batch: JointBatch) -> JointOutput:
        self.model.eval()
        with torch.no_grad():
            return self.model(batch.to(self._device))

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        return {name: value.detach().float().cpu().clone() for name, value in module.named_parameters() if value.requires_grad}

    def save(self, folder: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save(state, folder / f"torch-{_rank()}.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / f"torch-{_rank()}.pt", weights_only=True, map_location=self._device)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    @contextlib.contextmanager
    def _no_sync(self, last: bool) -> Iterator[None]:
        wait = isinstance(self._parallel, nn.parallel.DistributedDataParallel) and not last
        with self._parallel.no_sync() if wait else contextlib.nullcontext():  # pyright: ignore[reportCallIssue]
            yield


def mean_losses(outputs: Sequence[JointOutput]) -> dict[str, float]:
    """Return the mean loss and the mean of each part over micro-batches of equal size."""
    named: list[Mapping[str, Tensor]] = [{"loss": output.loss, **output.parts} for output in outputs]
    return {name: sum(float(losses[name].detach()) for losses in named) / len(named) for name in named[0]}


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
