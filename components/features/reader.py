"""Samples in a reproducible order: shuffled by seed and epoch, cut into global batches that workers share.

Every worker reads the same rows and takes its slice of each global batch, so a run's batches, and with them its loss, do
not depend on the number of workers, and a resumed run continues at the very batch where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.features.tables import dataset

WINDOW_ROWS = 1 << 18  # rows held and shuffled together


@dataclass(frozen=True)
class Share:
    """Which part of each global batch a worker takes."""

    rank: int = 0
    workers: int = 1


class SampleReader:
    """Batches of the Parquet samples at a URI: windows of fragments in random order, shuffled within a window."""

    def __init__(
        self, uri: str, batch_rows: int, seed: int, share: Share = Share(), window_rows: int = WINDOW_ROWS, columns: list[str] | None = None
    ) -> None:
        """`batch_rows` is the global batch, all workers together; it must be a multiple of their number. `columns`: None reads all."""
        assert batch_rows % share.workers == 0, f"{batch_rows} rows do not divide among {share.workers} workers"
        self._dataset, self._batch_rows, self._seed, self._share = dataset(uri), batch_rows, seed, share
        self._fragments = list(self._dataset.get_fragments())
        self._fragment_rows = [fragment.count_rows() for fragment in self._fragments]
        self._window_rows, self._columns = window_rows, columns
        self._cached: tuple[tuple[int, ...], pa.Table] | None = None

    @property
    def rows(self) -> int:
        return sum(self._fragment_rows)

    def batches(self, epoch: int) -> int:
        """Return the number of global batches of an epoch."""
        return sum(self._batches_of(window) for window in self._windows(epoch))

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[tuple[pa.Table, list[NDArray[np.int64]]]]:
        """Yield windows of samples with the row numbers of this worker's part of each batch, from `first_batch` on.

        Every batch is full: the rows left at the end of a window are not read in this epoch, and a window with fewer rows
        than a batch repeats them.
        """
        passed = 0
        for number, window in enumerate(self._windows(epoch)):
            order = np.random.default_rng([self._seed, epoch, number]).permutation(self._rows_of(window))
            batches = np.resize(order, (self._batches_of(window), self._batch_rows))
            remaining = batches[max(0, first_batch - passed) :, self._share.rank :: self._share.workers]
            passed += len(batches)
            if len(remaining):
                yield self._read(tuple(sorted(window))), list(remaining)

    def _windows(self, epoch: int) -> Iterator[list[int]]:
        order = range(len(self._fragments))
        if self.rows > self._window_rows:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._fragments)).tolist()
        window: list[int] = []
        for fragment in order:
            if window and self._rows_of(window) + self._fragment_rows[fragment] > self._window_rows:
                yield window
                window = []
            window.append(fragment)
        yield window

    def _batches_of(self, window: Iterable[int]) -> int:
        rows = self._rows_of(window)
        return max(rows // self._batch_rows, min(rows, 1))

    def _rows_of(self, window: Iterable[int]) -> int:
        return sum(self._fragment_rows[fragment] for fragment in window)

    def _read(self, window: tuple[int, ...]) -> pa.Table:
        if self._cached is None or self._cached[0] != window:
            self._cached = (window, pa.concat_tables([self._fragments[i].to_table(columns=self._columns) for i in window]).combine_chunks())
        return self._cached[1]
