"""Asking the LLM deployment: bounded in time, behind a circuit breaker, and every failure named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
        if not self.breaker.allow():
            raise LlmFailureError("circuit_open")
        response = self._handle.remote(visit, timeout_s)
        try:
            found = await asyncio.wait_for(_result(response), timeout_s)
        except BackPressureError as error:  # busy, not broken
            self.breaker.gave_up()
            raise LlmFailureError("llm_overloaded") from error
        except asyncio.CancelledError:  # the client left
            self.breaker.gave_up()
            response.cancel()
            raise
        except TimeoutError as error:
            if timeout_s >= self._patience_s:
                self.breaker.failed()
            else:
                self.breaker.gave_up()
            response.cancel()
            raise LlmFailureError("llm_timeout") from error
        except RayTaskError as error:
            self.breaker.failed()
            raise LlmFailureError("llm_error") from error
        except (RayError, RayServeException) as error:
            self.breaker.failed()
            raise LlmFailureError("llm_unavailable") from error
        self.breaker.succeeded()
        if np.shape(found) != (len(visit.candidates),):
            raise LlmFailureError("llm_invalid_output")
        return np.asarray(found, np.float64)


async def _result(response: object) -> NDArray[np.float64]:
    return await response  # pyright: ignore[reportGeneralTypeIssues] - a DeploymentResponse is awaitable
