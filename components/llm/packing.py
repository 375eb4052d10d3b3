"""Where users and their candidates stand in one row of tokens: all prefixes, one after the other, then all suffixes.

Everything in a transformer but its attention treats tokens one by one, so that such a row has no padding, and a prefix stands in
it once for all of its user's candidates, or not at all where its keys and values are known from before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.llm.tokens import TokenIds

Layers = list[tuple[Tensor, Tensor]]  # keys and values [P, K, E] of a prefix's tokens, one pair a layer
STEP = 16  # suffixes are laid out in grids as wide as a multiple of this: the processor's products want whole registers


@dataclass(frozen=True)
class Reading:
    """One user's prompts as they are read: each is the prefix and one of the suffixes."""

    prefix: TokenIds
    suffixes: tuple[TokenIds, ...]  # none is empty
    layers: Layers | None = None
    """The prefix's keys and values: full where known, empty where they are to be put there, none where nobody wants them."""
    known: bool = False

    @property
    def row_tokens(self) -> int:
        """Tokens of the prefix that are read."""
        return 0 if self.known else len(self.prefix)


@dataclass(frozen=True)
class Packing:
    """A row of S tokens, the last N of them suffixes, for U users with C candidates. The tensors are int64 but for the mask."""

    layers: tuple[Layers | None, ...]  # of each user's prefix
    prefixes: tuple[slice, ...]  # of each user, in the row; empty where the prefix is known
    suffixes: tuple[slice, ...]  # of each user's candidates together, counted from the end of all prefixes
    candidates: tuple[slice, ...]  # of each user, among all candidates
    prefix_tokens: int
    longest: int  # tokens of the longest prompt, prefix and suffix
    tokens_S: Tensor
    positions_S: Tensor
    answers_C: Tensor  # the tokens in the row whose output is the answer: each suffix's last
    grids: tuple[tuple[int, int], ...]  # candidates and width of grids that hold the suffixes, those of like length together
    grid_X: Tensor  # the suffix token in each cell of all grids; cells beyond a suffix repeat its first token
    beyond_X: Tensor  # bool, such cells
    cell_N: Tensor  # the cell of each suffix token
    order_C: Tensor  # the candidate in each row of the grids
    row_C: Tensor  # the grids' row of each candidate

    @staticmethod
    def of(readings: Sequence[Reading], device: str = "cpu") -> Packing:
        """Lay out users with their candidates."""
        suffixes = [suffix for each in readings for suffix in each.suffixes]
        counts = [len(each.suffixes) for each in readings]
        lengths_C = np.array([len(suffix) for suffix in suffixes])
        rows = [each.prefix[: each.row_tokens] for each in readings]
        before_C = np.repeat([len(each.prefix) for each in readings], counts)
        starts_C = np.cumsum(lengths_C) - lengths_C
        own_N = np.arange(lengths_C.sum()) - np.repeat(starts_C, lengths_C)
        order_C, grids, grid_X, beyond_X = _grids(lengths_C, starts_C)
        cell_N, row_C = np.empty(len(own_N), np.int64), np.empty(len(suffixes), np.int64)
        cell_N[grid_X[~beyond_X]], row_C[order_C] = np.flatnonzero(~beyond_X), np.arange(len(suffixes))
        prefix_tokens = sum(map(len, rows))
        at = [
            np.concatenate([*rows, *suffixes]).astype(np.int64),
            np.concatenate([*(np.arange(len(row)) for row in rows), own_N + np.repeat(before_C, lengths_C)]),
            prefix_tokens + starts_C + lengths_C - 1,
        ]
        tokens_S, positions_S, answers_C = (torch.from_numpy(each).to(device) for each in at)
        cells = (torch.from_numpy(each).to(device) for each in (grid_X, beyond_X, cell_N, order_C, row_C))
        return Packing(
            tuple(each.layers for each in readings),
            _slices([len(row) for row in rows]),
            _slices([sum(map(len, each.suffixes)) for each in readings]),
            _slices(counts),
            prefix_tokens,
            int((before_C + lengths_C).max()),
            tokens_S,
            positions_S,
            answers_C,
            grids,
            *cells,
        )

    def prefix(self, user: int, layer: int, key_SKE: Tensor, value_SKE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values [P, K, E] of a user's prefix, known or from the row; new ones are put where they are wanted."""
        layers, at = self.layers[user], self.prefixes[user]
        if layers is not None and layer < len(layers):
            return layers[layer]
        found = key_SKE[at], value_SKE[at]
        if layers is not None:
            layers.append((found[0].clone(), found[1].clone()))
        return found


def _grids(
    lengths_C: NDArray[np.int64], starts_C: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[tuple[int, int], ...], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the candidates in the order of the grids, the grids' shapes, their cells, and which cells lie beyond a suffix."""
    widths_C = -(-lengths_C // STEP) * STEP
    order_C = np.argsort(widths_C, kind="stable")
    widths, counts = np.unique(widths_C, return_counts=True)
    ordered = widths_C[order_C]
    steps_X = np.arange(ordered.sum()) - np.repeat(np.cumsum(ordered) - ordered, ordered)
    beyond_X = steps_X >= np.repeat(lengths_C[order_C], ordered)
    grid_X = np.repeat(starts_C[order_C], ordered) + np.where(beyond_X, 0, steps_X)
    return order_C, tuple(zip(counts.tolist(), widths.tolist(), strict=True)), grid_X, beyond_X


def _slices(lengths: Sequence[int]) -> tuple[slice, ...]:
    stops = np.cumsum(lengths).tolist()
    return tuple(slice(stop - length, stop) for stop, length in zip(stops, lengths, strict=True))
