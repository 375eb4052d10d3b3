"""An engine turns a joint model's loss into a step; the plain one averages gradients over workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from components.crm.embedding import Table
from components.joint import torch_file
from components.joint.model import JointBatch, JointModel, JointOutput

ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    weight_decay: float = 0.0


class Engine(Protocol):
    """One model in training: `step` on micro-batches of equal size that together are one optimizer step."""

    @property
    def model(self) -> JointModel: ...

    def step(self, micro_batches: Sequence[JointBatch], rate: float) -> dict[str, Tensor]:
        """Descend once with every group's learning rate times `rate`; return the loss and its parts, means over this worker's rows."""
        ...

    def evaluate(self, batch: JointBatch) -> JointOutput:
        """Run the forward alone; every worker must call it equally often."""
        ...

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the trained weights (no frozen ones) and persistent buffers of a part of the model, whole and in fp32, on every worker."""
        ...

    def save(self, folder: Path) -> None:
        """Write this worker's part of what `load` needs to go on with the very next step."""
        ...

    def load(self, folder: Path) -> None:
        """Go on where `save` stood; only on an engine that has not stepped yet."""
        ...

    def close(self) -> None:
        """Free what the engine holds beside the model; it can't be used any more."""
        ...


def adamw(groups: Sequence[ParameterGroup], fused: bool = False) -> torch.optim.AdamW:
    """Make AdamW; each group keeps its own peak rate as `peak`. `fused`: one pass over each parameter instead of ten."""
    plain = [
        {"params": list(group.parameters), "lr": group.learning_rate, "peak": group.learning_rate, "weight_decay": group.weight_decay}
        for group in groups
    ]
    return torch.optim.AdamW(plain, betas=ADAM_BETAS, fused=fused)


def lazy_adam(groups: Sequence[ParameterGroup]) -> torch.optim.SparseAdam:
    """Make Adam for sparse gradients: a step moves the rows that it names, their moments and nothing else; no weight decay."""
    plain = [{"params": list(group.parameters), "lr": group.learning_rate, "peak": group.learning_rate} for group in groups]
    return torch.optim.SparseAdam(plain, betas=ADAM_BETAS)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to its peak times `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate


def mean_losses(outputs: Sequence[JointOutput]) -> dict[str, Tensor]:
    """Return the mean loss and the mean of each part; reading them waits for the device."""
    named: list[Mapping[str, Tensor]] = [{"loss": output.loss, **output.parts} for output in outputs]
    return {name: torch.stack([losses[name].detach() for losses in named]).mean() for name in named[0]}


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that belong to a module's state, such as the running means of a batch norm."""
    state = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers() if name in state}


def share_buffers(buffers: Sequence[Tensor]) -> None:
    """Give every worker the first one's buffers, which each has updated from its own rows."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        for buffer in buffers:
            torch.distributed.broadcast(buffer, 0)


class TorchEngine:
    """Plain data parallelism: gradients averaged over workers, everything else on each."""

    def __init__(
        self, model: JointModel, groups: Sequence[ParameterGroup], device: str, gradient_clipping: float, sparse_tables: bool
    ) -> None:
        """With `sparse_tables` a step moves only those rows of embedding tables that its batch names; not on several GPUs."""
        self.model, self._device, self._clipping = model.to(device), device, gradient_clipping
        self._tables = [module for module in model.modules() if isinstance(module, Table)] if sparse_tables else []
        for table in self._tables:
            table.sparse = True
        sparse: set[Tensor] = {table.weight for table in self._tables}
        dense = {parameter for group in groups for parameter in group.parameters} - sparse
        self._optimizers: list[torch.optim.Optimizer] = [adamw(_only(groups, dense), fused=True)]
        if sparse:
            self._optimizers.append(lazy_adam(_only(groups, sparse)))
        self._buffers = list(persistent_buffers(self.model).values())
        alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
        self._parallel = None if alone else nn.parallel.DistributedDataParallel(self.model, forward_sync_buffers=False)

    def step(self, micro_batches: Sequence[JointBatch], rate: float) -> dict[str, Tensor]:
        for optimizer in self._optimizers:
            set_rate(optimizer, rate)
        if not self.model.training:  # telling every module takes as long as a layer
            self.model.train()
        outputs: list[JointOutput] = []
        for batch in micro_batches:
            last = len(outputs) + 1 == len(micro_batches)
            with contextlib.nullcontext() if last or self._parallel is None else self._parallel.no_sync():
                outputs.append((self._parallel or self.model)(batch.to(self._device)))
                (outputs[-1].loss / len(micro_batches)).backward()
        clip(self.model.parameters(), self._clipping)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        share_buffers(self._buffers)
        return mean_losses(outputs)

    def evaluate(self, batch: JointBatch) -> JointOutput:
        self.model.eval()
        with torch.no_grad():
            return self.model(batch.to(self._device))

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        return {name: value.detach().float().cpu().clone() for name, value in {**trained, **persistent_buffers(module)}.items()}

    def save(self, folder: Path) -> None:
        if self._parallel is None or torch.distributed.get_rank() == 0:  # the same on every worker
            torch.save(
                {"model": self.model.state_dict(), "optimizers": [each.state_dict() for each in self._optimizers]}, folder / "torch.pt"
            )

    def load(self, folder: Path) -> None:
        state = torch_file.read(folder / "torch.pt", self._device)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def close(self) -> None:
        self._parallel = None
        for table in self._tables:
            table.sparse = False


def clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale gradients, sparse ones among them, so that the norm of all together is at most `most`."""
    values: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    factor = (most / (nn.utils.get_total_norm(values, foreach=True) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(factor)


def _only(groups: Sequence[ParameterGroup], wanted: Set[Tensor]) -> list[ParameterGroup]:
    """Return the groups that have any of the wanted parameters, with these alone."""
    kept = [replace(group, parameters=[parameter for parameter in group.parameters if parameter in wanted]) for group in groups]
    return [group for group in kept if group.parameters]
