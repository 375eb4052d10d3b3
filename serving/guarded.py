"""Asking another side, mostly another deployment: bounded in time, behind a circuit breaker, and every way to get no answer named."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from components.errors import one_line
from serving.breaker import CircuitBreaker
from serving.silence import Silence

LOGGER = logging.getLogger("ray.serve")
LOGGED = 300  # characters of an error
OTHER_VERSION = "another version"  # the answer of a process that holds another version of the model than was meant


class UnansweredError(Exception):
    """The other side gave no answer that can be used; `kind` says why."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


Send = Callable[[Any, float], Any]  # a question and the time for it -> what can be awaited and cancelled


class Guarded:
    """Asks another side."""

    def __init__(
        self,
        name: str,
        send: Send,
        breaker: CircuitBreaker,
        patience_s: float,
        on_state: Callable[[str], None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """A timeout counts against the other side once it has been silent for `patience_s`: one client in a hurry switches nothing off.

        `name` is for the log; `on_state` hears the state of the circuit at first and when it changes.
        """
        self._name, self._send, self.breaker, self._patience_s, self._on_state = name, send, breaker, patience_s, on_state
        self._silence = Silence(now_s)
        self._state = breaker.state
        self.has_answered = False
        on_state(self._state)

    async def ask(self, question: Any, timeout_s: float, read: Callable[[Any], Any]) -> Any:
        """Return what `read` makes of the answer; raises UnansweredError at the latest after `timeout_s`.

        An answer that `read` raises anything for is none.
        """
        if timeout_s <= 0:
            raise UnansweredError("deadline")
        ticket = self.breaker.allow()
        self._tell()
        if not ticket:
            raise UnansweredError("circuit_open")
        if self.breaker.is_probe(ticket):
            return await self._probe(question, timeout_s, read, ticket)
        return await self._asked(question, timeout_s, read, ticket)

    async def _probe(self, question: Any, timeout_s: float, read: Callable[[Any], Any], ticket: int) -> Any:
        """Ask the question that decides whether the circuit closes: after `patience_s`, however long its client waits.

        Clients in a hurry would keep another side switched off that answers all others; a very patient one that answers none.
        """
        probe = asyncio.ensure_future(self._asked(question, max(timeout_s, self._patience_s), read, ticket))
        probe.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, whether or not its client is still here
        if timeout_s > self._patience_s:
            verdict = asyncio.get_running_loop().call_later(self._patience_s, self._no_answer, ticket)
            probe.add_done_callback(lambda _: verdict.cancel())
        try:
            return await asyncio.wait_for(asyncio.shield(probe), timeout_s)
        except TimeoutError as error:
            raise UnansweredError("timeout") from error
        except asyncio.CancelledError:  # the client left
            probe.cancel()
            raise

    def _no_answer(self, ticket: int) -> None:
        if self.breaker.is_probe(ticket):  # an answer to an earlier question may have closed the circuit
            self._failed(ticket, "timeout")

    async def _asked(self, question: Any, timeout_s: float, read: Callable[[Any], Any], ticket: int) -> Any:
        with self._silence.asking():
            found = await self._answer(question, timeout_s, ticket)
        if isinstance(found, str) and found == OTHER_VERSION:  # alive, in the middle of a rollout
            self.breaker.gave_up(ticket)
            raise UnansweredError("other_version")
        try:
            answer = read(found)
        except Exception as error:
            raise self._failed(ticket, "invalid_output", error) from error
        self.breaker.succeeded()
        self.has_answered = True
        self._tell()
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
            _cancel(response)
            if max(timeout_s, self._silence.so_far_s()) >= self._patience_s:
                raise self._failed(ticket, "timeout", error) from error
            self.breaker.gave_up(ticket)
            raise UnansweredError("timeout") from error
        except RayTaskError as error:  # before CancelledError, which it may be too
            raise self._failed(ticket, "error", error) from error
        except asyncio.CancelledError:  # the client left
            self.breaker.gave_up(ticket)
            _cancel(response)
            raise
        except Exception as error:
            kind = "unavailable" if isinstance(error, (RayError, RayServeException)) else "error"
            raise self._failed(ticket, kind, error) from error
        self._silence.broken()
        return found

    def _failed(self, ticket: int, kind: str, cause: Exception | None = None) -> UnansweredError:
        """Count a failure; return what to raise."""
        LOGGER.warning("no answer of %s: %s, %s", self._name, kind, one_line(repr(cause))[:LOGGED])
        self.breaker.failed(ticket)
        self._tell()
        return UnansweredError(kind)

    def _tell(self) -> None:
        state = self.breaker.state
        if state == self._state:
            return
        if "closed" in (state, self._state):  # while it is open, probes come and go
            LOGGER.warning("the circuit before %s is %s", self._name, state)
        self._state = state
        self._on_state(state)


def to_deployment(handle: DeploymentHandle, version: str) -> Send:
    """Return how to ask a deployment for the answers of one version of the model."""
    return lambda question, timeout_s: handle.remote(question, version, timeout_s)


async def _result(response: Any) -> Any:
    return await response


def _cancel(response: Any) -> None:
    if response is not None:
        response.cancel()
