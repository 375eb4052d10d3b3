"""Asking another side, mostly another deployment: bounded in time, behind a circuit breaker, and every way to get no answer named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from serving.breaker import CircuitBreaker
from serving.silence import Silence

OTHER_VERSION = "another version"  # the answer of a process that holds another version of the model than was meant


class UnansweredError(Exception):
    """The other side gave no answer that can be used; `kind` says why."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


Send = Callable[[Any, float], Any]  # a question and the time for it -> what can be awaited and cancelled


class Guarded:
    """Asks another side."""

    def __init__(self, send: Send, breaker: CircuitBreaker, patience_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        """A timeout counts against the other side once it has been silent for `patience_s`: one client in a hurry switches nothing off."""
        self._send, self.breaker, self._patience_s = send, breaker, patience_s
        self._silence = Silence(now_s)

    @staticmethod
    def deployment(handle: DeploymentHandle, version: str, breaker: CircuitBreaker, patience_s: float) -> Guarded:
        """Ask a deployment for the answers of one version of the model."""
        return Guarded(lambda question, timeout_s: handle.remote(question, version, timeout_s), breaker, patience_s)

    async def ask(self, question: Any, timeout_s: float, read: Callable[[Any], Any]) -> Any:
        """Return what `read` makes of the answer; raises UnansweredError at the latest after `timeout_s`.

        `read` raises UnansweredError for an answer that is none.
        """
        if timeout_s <= 0:
            raise UnansweredError("deadline")
        ticket = self.breaker.allow()
        if not ticket:
            raise UnansweredError("circuit_open")
        with self._silence.asking():
            found = await self._answer(question, timeout_s, ticket)
        if isinstance(found, str) and found == OTHER_VERSION:  # alive, in the middle of a rollout
            self.breaker.gave_up(ticket)
            raise UnansweredError("other_version")
        try:
            answer = read(found)
        except UnansweredError:
            self.breaker.failed(ticket)
            raise
        self.breaker.succeeded()
        return answer

    async def _answer(self, question: Any, timeout_s: float, ticket: int) -> Any:
        response = None
        try:
            response = self._send(question, timeout_s)
            found = await asyncio.wait_for(_result(response), timeout_s)
        except BackPressureError as error:  # busy, not broken
            self.breaker.gave_up(ticket)
            raise UnansweredError("overloaded") from error
        except TimeoutError as error:
            if self._was_patient(timeout_s) or self.breaker.is_probe(ticket):
                self.breaker.failed(ticket)
            else:
                self.breaker.gave_up(ticket)
            _cancel(response)
            raise UnansweredError("timeout") from error
        except RayTaskError as error:  # before CancelledError, which it may be too
            self.breaker.failed(ticket)
            raise UnansweredError("error") from error
        except asyncio.CancelledError:  # the client left
            self.breaker.gave_up(ticket)
            _cancel(response)
            raise
        except Exception as error:
            self.breaker.failed(ticket)
            raise UnansweredError("unavailable" if isinstance(error, (RayError, RayServeException)) else "error") from error
        self._silence.broken()
        return found

    def _was_patient(self, timeout_s: float) -> bool:
        return max(timeout_s, self._silence.so_far_s()) >= self._patience_s


async def _result(response: Any) -> Any:
    return await response


def _cancel(response: Any) -> None:
    if response is not None:
        response.cancel()
