"""How much memory this process takes while something runs."""

from __future__ import annotations

import threading

import psutil

EVERY_S = 0.02


class PeakMemory:
    """Samples the resident memory of this process, without what it shares with Ray's object store."""

    def __init__(self) -> None:
        self._stop, self.growth_mib = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._start = self._own()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.growth_mib = max(self.growth_mib, (self._own() - self._start) / 2**20)

    def _own(self) -> int:
        memory = psutil.Process().memory_info()
        return memory.rss - memory.shared
