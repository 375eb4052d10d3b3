"""A circuit breaker: after a few failures in a row nobody asks any more, until one probe finds the other side well again."""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Closed: all may ask. Open: nobody. Half open, once the pause is over: one probe decides. For one event loop."""

    def __init__(self, failures: int, pause_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._pause_s, self._now_s = failures, pause_s, now_s
        self._failures, self._opened_s, self._probing = 0, -1.0, False

    @property
    def state(self) -> str:
        if self._failures < self._limit:
            return "closed"
        return "half_open" if self._probing or self._now_s() - self._opened_s >= self._pause_s else "open"

    def allow(self) -> bool:
        """Tell whether to ask now; who is allowed says afterwards how it went."""
        state = self.state
        if state != "half_open" or self._probing:
            return state == "closed"
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._failures, self._probing = 0, False

    def failed(self) -> None:
        self._failures += 1
        self._opened_s, self._probing = self._now_s(), False

    def gave_up(self) -> None:
        """The asker left before there was an answer: that says nothing of the other side."""
        self._probing = False
