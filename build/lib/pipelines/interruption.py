"""Requests to end: Ctrl-C, `ray job stop`, a shutdown. What is half done is then removed or resumable."""

from __future__ import annotations

import signal
from types import FrameType


class Interruption:
    """Raises KeyboardInterrupt where the main thread is, and remembers it: code that Python runs on the side may swallow it."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background jobs are not meant by Ctrl-C
            signal.signal(signal.SIGINT, self._on_signal)

    def check(self) -> None:
        """Raise KeyboardInterrupt if the run was ever asked to end."""
        if self._asked:
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the shape of a handler
        self._asked = True
        raise KeyboardInterrupt
