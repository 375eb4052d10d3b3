"""The engine of the LLM's stages: DeepSpeed ZeRO, on CPU as on GPU. The only file that knows DeepSpeed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from components.errors import ConfigError
from components.joint import torch_file
from components.joint.engine import ParameterGroup, adamw, mean_losses, persistent_buffers, set_rate, share_buffers
from components.joint.model import JointBatch, JointModel, JointOutput

TAG = "engine"


@dataclass(frozen=True)
class Config:
    """How the LLM's stages run under DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: what is partitioned over workers (1 optimizer state, 2 and gradients, 3 and parameters)."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What moves to the host's memory: optimizer state (stage 2 or 3), or parameters too (stage 3). Needs GPU workers."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the LLM's stages; bf16 keeps fp32 master weights."""
    gradient_clipping: float = 1.0
    """Largest norm of a step's gradient."""

    def __post_init__(self) -> None:
        if self.precision == "bf16" and self.zero_stage == 0:
            # There DeepSpeed starts AdamW's bias correction one step too late, and the first steps are too short.
            raise ConfigError("train.deepspeed.precision 'bf16' needs zero_stage 1, 2 or 3, got 0")
        if self.offload == "optimizer" and self.zero_stage < 2:
            raise ConfigError(f"train.deepspeed.offload 'optimizer' needs zero_stage 2 or 3, got {self.zero_stage}")
        if self.offload == "all" and self.zero_stage != 3:
            raise ConfigError(f"train.deepspeed.offload 'all' needs zero_stage 3, got {self.zero_stage}")
        if self.gradient_clipping <= 0:
            raise ConfigError(f"train.deepspeed.gradient_clipping: expected a number > 0, got {self.gradient_clipping}")

    def require_device(self, gpu: bool) -> None:
        """Raise ConfigError for what only GPU workers can do, where there are none."""
        if self.offload != "none" and not gpu:
            raise ConfigError(
                "train.deepspeed.offload: expected 'none' without GPU workers, where everything is in the host's memory already, "
                f"got {self.offload!r}"
            )


def deepspeed_config(config: Config, micro_batch: int, accumulation: int, workers: int) -> dict[str, Any]:
    """Derive DeepSpeed's JSON from the same numbers that everything else uses."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload in ("optimizer", "all"):
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": micro_batch * accumulation * workers,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.gradient_clipping,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": zero,
        # The optimizer is torch's own AdamW, so offloading needs no compiled one.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


class DeepSpeedEngine:
    """ZeRO data parallelism: optimizer state, gradients and parameters partitioned over workers, on CPU as on GPU."""

    def __init__(
        self, model: JointModel, groups: Sequence[ParameterGroup], device: str, config: Config, micro_batch: int, accumulation: int
    ) -> None:
        config.require_device(gpu=device != "cpu")
        _prepare(device)
        import deepspeed

        workers = torch.distributed.get_world_size()
        self.model, self._device = model, device
        self._engine, optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=adamw(groups, fused=device == "cpu"), config=deepspeed_config(config, micro_batch, accumulation, workers)
        )
        checkpoint_engine: Any = self._engine.checkpoint_engine
        checkpoint_engine.load = _read  # every file of a checkpoint goes through it
        self._optimizer = cast(torch.optim.Optimizer, optimizer)  # wrapped for ZeRO, with the same parameter groups
        self._buffers = list(persistent_buffers(model).values())

    def step(self, micro_batches: Sequence[JointBatch], rate: float) -> dict[str, Tensor]:
        assert len(micro_batches) == self._engine.gradient_accumulation_steps(), "a step is one full round of accumulation"
        set_rate(self._optimizer, rate)
        self._engine.train()
        outputs: list[JointOutput] = []
        for batch in micro_batches:
            outputs.append(self._engine(batch.to(self._device)))
            self._engine.backward(outputs[-1].loss)
            self._engine.step()
        share_buffers(self._buffers)
        return mean_losses(outputs)

    def evaluate(self, batch: JointBatch) -> JointOutput:
        self._engine.eval()
        with torch.no_grad():
            return self._engine(batch.to(self._device))

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        whole = {name: buffer.detach().float().cpu().clone() for name, buffer in persistent_buffers(module).items()}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                master = safe_get_full_fp32_param(parameter)
                with GatheredParameters([parameter]):
                    whole[name] = (parameter if master is None else master).detach().float().cpu().clone()
        return whole

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        # Not strict: frozen parameters are not saved, they are as they were loaded.
        self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)

    def close(self) -> None:
        self._engine.destroy()
        _forget_models()


def _read(path: str, map_location: Any = None) -> Any:
    """Read a file as DeepSpeed's own loader does, which would run whatever is in it."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return torch_file.read(path, map_location, (LossScaler, ZeroStageEnum, fragment_address))


def _prepare(device: str) -> None:
    """Keep DeepSpeed from compiling anything that is not used here."""
    os.environ["DS_ACCELERATOR"] = "cpu" if device == "cpu" else "cuda"  # read when DeepSpeed is imported
    # It looks at one optimizer (Muon) that has itself compiled when imported: seconds of every worker's start.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if device == "cpu":
        import deepspeed

        # No compiled operations: their shared memory does what gloo does, and asking which could be built runs a compiler.
        deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]


def _forget_models() -> None:
    """Empty a list and a cache in which DeepSpeed holds every model that it ever ran under ZeRO-3."""
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    parameter_offload.FWD_MODULE_STACK.clear()
    with contextlib.suppress(AttributeError, IndexError, KeyError):  # nothing public leads there; another version may have mended it
        cached: Any = vars(PartitionedParameterCoordinator)["_PartitionedParameterCoordinator__params_to_release"]
        cached.__closure__[0].cell_contents.cache_clear()
