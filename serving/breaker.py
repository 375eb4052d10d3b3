"""A circuit breaker: after a few failures in a row nobody asks any more, until one probe finds the other side well again."""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Closed: all may ask. Open: nobody. Half open, once the pause is over: one probe decides. For one event loop."""

    def __init__(self, failures: int, pause_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._pause_s, self._now_s = failures, pause_s, now_s
        self._failures, self._opened_s = 0, -1.0
        self._tickets, self._probe = 0, 0  # tickets given out, the probe's among them

    @property
    def state(self) -> str:
        if self._failures < self._limit:
            return "closed"
        return "half_open" if self._probe or self._now_s() - self._opened_s >= self._pause_s else "open"

    def allow(self) -> int:
        """Return a ticket to ask now, 0 for nobody; who holds one says afterwards how it went."""
        state = self.state
        if state == "open" or self._probe:
            return 0
        self._tickets += 1
        self._probe = self._tickets if state == "half_open" else 0
        return self._tickets

    def is_probe(self, ticket: int) -> bool:
        """Tell whether the holder of this ticket decides alone whether the circuit closes."""
        return ticket == self._probe

    def succeeded(self) -> None:
        self._failures, self._probe = 0, 0

    def failed(self, ticket: int) -> None:
        """Count a failure; one that was asked for before the circuit opened says nothing new."""
        if self.state == "closed" or self.is_probe(ticket):
            self._failures += 1
            self._opened_s, self._probe = self._now_s(), 0

    def gave_up(self, ticket: int) -> None:
        """The asker left before there was an answer: that says nothing of the other side."""
        if self.is_probe(ticket):
            self._probe = 0
