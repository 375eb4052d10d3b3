"""How long another side has not answered while somebody was waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Silence:
    """Sums up the time in which at least one question was out, since the last answer. For one event loop."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._out, self._earlier_s, self._since_s = 0, 0.0, 0.0

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """A question is out."""
        if self._out == 0:
            self._since_s = self._now_s()
        self._out += 1
        try:
            yield
        finally:
            self._out -= 1
            if self._out == 0:
                self._earlier_s += self._now_s() - self._since_s

    def broken(self) -> None:
        """An answer came."""
        self._earlier_s, self._since_s = 0.0, self._now_s()

    def so_far_s(self) -> float:
        return self._earlier_s + (self._now_s() - self._since_s if self._out else 0.0)
