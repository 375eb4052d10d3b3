"""What this machine can do at best, measured: the floor under every other figure is what a large product or a large copy takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SIDE = 2_048  # rows and columns of the matrices: large enough that a product is bound by arithmetic, not by memory
COPIED = 256 * 2**20  # bytes of the copy, far beyond any cache
REPEATS = 5


def peak_flops(dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Return the FLOP/s of a square matrix product with the threads that torch has now, the best of some tries."""
    side = SIDE if device == "cpu" else 4 * SIDE
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2.0 * side**3 / _best_s(lambda: torch.mm(a, b), device)


def peak_bytes(device: str = "cpu") -> float:
    """Return the bytes/s that a copy moves, read and written, the best of some tries."""
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * COPIED / _best_s(lambda: target.copy_(source), device)


def _best_s(work: Callable[[], object], device: str) -> float:
    taken_s: list[float] = []
    for _ in range(REPEATS + 1):
        started_s = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        taken_s.append(time.perf_counter() - started_s)
    return min(taken_s[1:])
