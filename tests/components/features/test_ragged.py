"""Rows of different lengths in flat arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from components.features.ragged import Ragged, stacked


def lists(ragged: Ragged) -> list[list[int]]:
    return [row.tolist() for row in np.split(ragged.values, ragged.offsets[1:-1])][: len(ragged.lengths)]


THREE = Ragged.of([np.array([7, 8, 9], np.int32), np.array([], np.int32), np.array([4], np.int32)])


def test_rows_lie_one_after_the_other() -> None:
    assert THREE.values.tolist() == [7, 8, 9, 4]
    assert THREE.offsets.tolist() == [0, 3, 3, 4]
    assert Ragged.of([]).offsets.tolist() == [0]


def test_a_column_of_several_chunks_and_a_slice_of_one_are_read_alike() -> None:
    chunked = pa.chunked_array([pa.array([[0], [7, 8, 9], []]).slice(1), pa.array([[4]])])
    assert lists(Ragged.from_arrow(chunked)) == lists(THREE)
    assert lists(Ragged.from_arrow(pa.chunked_array([], pa.list_(pa.int32())))) == []


def test_the_latest_values_of_each_row_are_those_at_its_end() -> None:
    assert lists(THREE.latest(2)) == [[8, 9], [], [4]]
    assert lists(THREE.latest(0)) == [[], [], []]
    assert lists(THREE.latest(9)) == lists(THREE)


def test_rows_are_taken_in_any_order_and_more_than_once() -> None:
    assert lists(THREE.take(np.array([2, 0, 1, 2]))) == [[4], [7, 8, 9], [], [4]]
    assert lists(THREE.take(np.array([], np.int64))) == []


def test_stacked_parts_keep_their_rows() -> None:
    assert lists(stacked([THREE, Ragged.of([np.array([1], np.int32)])])) == [[7, 8, 9], [], [4], [1]]
