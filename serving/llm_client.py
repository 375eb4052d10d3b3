"""Asking the LLM deployment: its probabilities, or the cause of there being none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.features.visit import Visit
from serving.guarded import Guarded, UnansweredError
from serving.router import LlmFailureError

PLAIN = ("deadline", "circuit_open")  # kinds that are causes as they stand


class LlmClient:
    """Calls the LLM by its handle."""

    def __init__(self, guarded: Guarded, on_failure: Callable[[str], None]) -> None:
        self._guarded, self.breaker, self._on_failure = guarded, guarded.breaker, on_failure

    @property
    def state(self) -> str:
        """Say how the LLM is, as far as its last answers tell: unknown before the first."""
        if self.breaker.state == "closed":
            return "ready" if self._guarded.has_answered else "unknown"
        return "recovering" if self.breaker.state == "half_open" else "unavailable"

    async def __call__(self, visit: Visit, timeout_s: float) -> NDArray[np.float64]:
        """Return the LLM's probabilities; raises LlmFailureError at the latest after `timeout_s`."""
        try:
            return await self._guarded.ask(visit, timeout_s, lambda found: _probabilities(found, len(visit.candidates)))
        except UnansweredError as error:
            cause = error.kind if error.kind in PLAIN else f"llm_{error.kind}"
            self._on_failure(cause)
            raise LlmFailureError(cause) from error


def _probabilities(found: Any, count: int) -> NDArray[np.float64]:
    try:
        p = np.asarray(found, np.float64)
    except (TypeError, ValueError) as error:
        raise UnansweredError("invalid_output") from error
    if p.shape != (count,) or not np.isfinite(p).any():
        raise UnansweredError("invalid_output")
    return p
