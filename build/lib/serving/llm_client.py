"""Asking the LLM deployment: bounded in time, behind a circuit breaker, and every failure named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from components.features.visit import Visit
from serving.breaker import CircuitBreaker
from serving.router import LlmFailureError


class LlmClient:
    """Calls the LLM by its handle."""

    def __init__(self, handle: DeploymentHandle, breaker: CircuitBreaker, patience_s: float, on_failure: Callable[[str], None]) -> None:
        """A timeout counts against the LLM from `patience_s` on: a client in a hurry must not switch it off for all."""
        self._handle, self.breaker, self._patience_s, self._on_failure = handle, breaker, patience_s, on_failure

    @property
    def state(self) -> str:
        """Say how the LLM is, as far as its last answers tell."""
        return {"closed": "ready", "half_open": "recovering", "open": "unavailable"}[self.breaker.state]

    async def __call__(self, visit: Visit, timeout_s: float) -> NDArray[np.float64]:
        """Return the LLM's probabilities; raises LlmFailureError at the latest after `timeout_s`."""
        try:
            return await self._guarded(visit, timeout_s)
        except LlmFailureError as failure:
            self._on_failure(failure.cause)
            raise

    async def _guarded(self, visit: Visit, timeout_s: float) -> NDArray[np.float64]:
        if timeout_s <= 0:
            raise LlmFailureError("deadline")
        ticket = self.breaker.allow()
        if not ticket:
            raise LlmFailureError("circuit_open")
        response = None
        try:
            response = self._handle.remote(visit, timeout_s)
            found = await asyncio.wait_for(_result(response), timeout_s)
        except BackPressureError as error:  # busy, not broken
            self.breaker.gave_up(ticket)
            raise LlmFailureError("llm_overloaded") from error
        except TimeoutError as error:
            if timeout_s >= self._patience_s:
                self.breaker.failed(ticket)
            else:
                self.breaker.gave_up(ticket)
            _cancel(response)
            raise LlmFailureError("llm_timeout") from error
        except RayTaskError as error:  # before CancelledError, which it may be too
            self.breaker.failed(ticket)
            raise LlmFailureError("llm_error") from error
        except asyncio.CancelledError:  # the client left
            self.breaker.gave_up(ticket)
            _cancel(response)
            raise
        except Exception as error:
            self.breaker.failed(ticket)
            raise LlmFailureError("llm_unavailable" if isinstance(error, (RayError, RayServeException)) else "llm_error") from error
        try:
            p_llm = _probabilities(found, len(visit.candidates))
        except LlmFailureError:
            self.breaker.failed(ticket)
            raise
        self.breaker.succeeded()
        return p_llm


async def _result(response: Any) -> Any:
    return await response


def _cancel(response: Any) -> None:
    if response is not None:
        response.cancel()


def _probabilities(found: Any, count: int) -> NDArray[np.float64]:
    try:
        p = np.asarray(found, np.float64)
    except (TypeError, ValueError) as error:
        raise LlmFailureError("llm_invalid_output") from error
    if p.shape != (count,) or not np.isfinite(p).any():
        raise LlmFailureError("llm_invalid_output")
    return p
