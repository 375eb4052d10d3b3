"""From rows of samples to the batch that both models read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from components.features.store import FeatureStore
from components.joint.model import JointBatch
from components.llm.tokens import TokenLayout, collate


@dataclass(frozen=True)
class Inputs:
    """Which models a stage feeds, and with what."""

    store: FeatureStore
    layout: TokenLayout
    crm: bool
    llm: bool

    @property
    def columns(self) -> list[str]:
        """The columns of samples that these models read."""
        return ["label", *(self.store.sample_columns if self.crm else []), *(["token_ids"] if self.llm else [])]


class Window:
    """Samples held as flat arrays, from which batches are cut."""

    def __init__(self, samples: pa.Table, inputs: Inputs) -> None:
        self._inputs = inputs
        self.label = samples["label"].to_numpy().astype(np.float32)
        self._columns = inputs.store.columns(samples) if inputs.crm else {}
        self._tokens, self._offsets = token_lists(samples) if inputs.llm else (np.zeros(0, np.int64), np.zeros(1, np.int64))

    def batch(self, rows: NDArray[np.int64]) -> JointBatch:
        """Return the samples at these rows, in this order."""
        tokens = [self._tokens[self._offsets[row] : self._offsets[row + 1]] for row in rows] if self._inputs.llm else []
        return JointBatch(
            label_B=torch.from_numpy(self.label[rows]),
            crm=self._inputs.store.batch(self._columns, rows) if self._inputs.crm else None,
            tokens=collate(tokens, self._inputs.layout) if tokens else None,
        )

    def order_by_length(self) -> NDArray[np.int64]:
        """Return all rows, those with like prompt lengths together."""
        lengths = np.diff(self._offsets) if self._inputs.llm else np.zeros(len(self.label), np.int64)
        return np.argsort(lengths, kind="stable")

    def micro_batches(self, rows: NDArray[np.int64], size: int) -> list[JointBatch]:
        """Cut a step's rows into batches of `size`; prompts of like length come together, so that little is padded."""
        if self._inputs.llm:
            rows = rows[np.argsort(np.diff(self._offsets)[rows], kind="stable")]
        return [self.batch(rows[start : start + size]) for start in range(0, len(rows), size)]


class Windows:
    """Windows by their samples; the latest is kept, which for samples of one window is that of all epochs."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._latest: tuple[pa.Table, Window] | None = None

    def of(self, samples: pa.Table) -> Window:
        if self._latest is None or self._latest[0] is not samples:
            self._latest = None  # two at a time would be twice the memory
            self._latest = (samples, Window(samples, self._inputs))
        return self._latest[1]


def token_lists(samples: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all prompts' tokens as one array, and where each prompt starts."""
    whole = samples["token_ids"].combine_chunks()
    column = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
    return column.values.to_numpy().astype(np.int64), column.offsets.to_numpy().astype(np.int64)


def token_arrays(samples: pa.Table) -> list[NDArray[np.int64]]:
    """Return each prompt's tokens as an array of its own."""
    tokens, offsets = token_lists(samples)
    return np.split(tokens, offsets[1:-1])
