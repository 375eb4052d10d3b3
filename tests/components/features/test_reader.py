"""The reader: every worker its share of the same full batches, in the same order in every run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import ArtifactError
from components.features.reader import SampleReader, Share

FILES = (10, 6, 0, 14, 2)  # rows of each file: 32


def write(folder: Path, files: tuple[int, ...] = FILES) -> str:
    folder.mkdir()
    first = 0
    for number, rows in enumerate(files):
        pq.write_table(pa.table({"row": pa.array(range(first, first + rows), pa.int64())}), folder / f"part-{number:06}.parquet")
        first += rows
    return str(folder)


def batches(reader: SampleReader, epoch: int, first_batch: int = 0) -> list[list[int]]:
    """Read a worker's batches as the rows that they hold."""
    found: list[list[int]] = []
    for window, parts in reader.epoch(epoch, first_batch):
        values = window["row"].to_numpy()
        found += [values[part].tolist() for part in parts]
    return found


def global_batches(uri: str, batch_rows: int, workers: int, epoch: int = 0, window_rows: int = 1 << 18) -> list[list[int]]:
    """Put the parts of all workers together again."""
    parts = [batches(SampleReader(uri, batch_rows, 7, Share(rank, workers), window_rows), epoch) for rank in range(workers)]
    return [np.stack(step, axis=1).ravel().tolist() for step in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("reader") / "samples")


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"row": [1, 2], "text": ["a", "b"]}), tmp_path / "part-0.parquet")
    ((window, _),) = SampleReader(str(tmp_path), 2, seed=7, columns=["row"]).epoch(0)
    assert window.column_names == ["row"]


def test_an_epoch_reads_every_row_once(uri: str) -> None:
    found = batches(SampleReader(uri, 8, seed=7), epoch=0)
    assert [len(batch) for batch in found] == [8, 8, 8, 8]
    assert sorted(row for batch in found for row in batch) == list(range(32))


def test_rows_that_fill_no_batch_are_left_out_of_an_epoch(uri: str) -> None:
    reader = SampleReader(uri, 12, seed=7)
    seen = [{row for batch in batches(reader, epoch) for row in batch} for epoch in range(30)]
    assert reader.batches(0) == 2
    assert all(len(rows) == 24 for rows in seen)
    assert set().union(*seen) == set(range(32)), "over the epochs every row has its turn"


def test_fewer_rows_than_a_batch_are_repeated_until_it_is_full(tmp_path: Path) -> None:
    reader = SampleReader(write(tmp_path / "few", (3,)), 8, seed=7)
    (only,) = batches(reader, 0)
    assert reader.batches(0) == 1
    assert sorted(Counter(only).values()) == [2, 3, 3]


def test_no_rows_give_no_batches(tmp_path: Path) -> None:
    reader = SampleReader(write(tmp_path / "none", (0, 0)), 8, seed=7)
    assert (reader.rows, reader.batches(0), batches(reader, 0)) == (0, 0, [])


@pytest.mark.parametrize("window_rows", [1 << 18, 16])
@pytest.mark.parametrize("batch_rows", [8, 12, 64])
def test_batches_do_not_depend_on_the_number_of_workers(uri: str, batch_rows: int, window_rows: int) -> None:
    for epoch in (0, 1):
        alone = global_batches(uri, batch_rows, 1, epoch, window_rows)
        assert all(len(batch) == batch_rows for batch in alone)
        assert global_batches(uri, batch_rows, 2, epoch, window_rows) == alone
        assert global_batches(uri, batch_rows, 4, epoch, window_rows) == alone


def test_the_workers_of_a_batch_read_different_rows(uri: str) -> None:
    first, second = (batches(SampleReader(uri, 8, 7, Share(rank, 2)), 0) for rank in (0, 1))
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [4] * 4
    assert not {row for batch in first for row in batch} & {row for batch in second for row in batch}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3), st.integers(0, 12), st.sampled_from([4, 8, 12]), st.sampled_from([1 << 18, 16, 1]), st.integers(0, 1))
def test_a_resumed_reader_goes_on_at_the_very_batch(
    uri: str, epoch: int, first_batch: int, batch_rows: int, window_rows: int, rank: int
) -> None:
    unbroken, resumed = (SampleReader(uri, batch_rows, 7, Share(rank, 2), window_rows) for _ in range(2))
    assert batches(resumed, epoch, first_batch) == batches(unbroken, epoch)[first_batch:]


@pytest.mark.parametrize("window_rows", [1 << 18, 16])
def test_the_announced_number_of_batches_is_read(uri: str, window_rows: int) -> None:
    for batch_rows in (4, 12, 64):
        reader = SampleReader(uri, batch_rows, 7, window_rows=window_rows)
        for epoch in range(5):
            assert len(batches(reader, epoch)) == reader.batches(epoch)


@pytest.mark.parametrize("window_rows", [1 << 18, 16])
def test_epochs_and_seeds_have_orders_of_their_own(uri: str, window_rows: int) -> None:
    orders = [
        [row for batch in batches(SampleReader(uri, 2, seed, window_rows=window_rows), epoch) for row in batch]
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(32)) for order in orders)
    again = batches(SampleReader(uri, 2, 1, window_rows=window_rows), 0)
    assert [row for batch in again for row in batch] == orders[0]


def test_a_window_holds_whole_files_and_no_more_rows_than_asked(uri: str) -> None:
    reader = SampleReader(uri, 2, 7, window_rows=16)
    files = [set(range(0, 10)), set(range(10, 16)), set(range(16, 30)), set(range(30, 32))]
    seen: set[tuple[int, ...]] = set()
    for epoch in range(8):
        windows = [set(table["row"].to_pylist()) for table, _ in reader.epoch(epoch)]
        assert sorted(row for window in windows for row in window) == list(range(32))
        assert all(len(window) <= 16 and all(file <= window or not file & window for file in files) for window in windows)
        seen.add(tuple(len(window) for window in windows))
    assert len(seen) > 1, "files change their windows from epoch to epoch"


def test_a_file_larger_than_a_window_is_read_as_one(tmp_path: Path) -> None:
    reader = SampleReader(write(tmp_path / "large", (20, 4)), 4, 7, window_rows=8)
    assert sorted(table.num_rows for table, _ in reader.epoch(0)) == [4, 20]
    assert sorted(row for batch in batches(reader, 0) for row in batch) == list(range(24))


def test_data_that_fits_in_a_window_is_read_once_for_all_epochs(uri: str) -> None:
    reader = SampleReader(uri, 8, 7)
    first, second = (next(iter(reader.epoch(epoch)))[0] for epoch in (0, 1))
    assert first is second


def test_a_batch_that_workers_cannot_share_is_refused(uri: str) -> None:
    with pytest.raises(AssertionError, match="9 rows do not divide among 2 workers"):
        SampleReader(uri, 9, 7, Share(0, 2))


def test_a_folder_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"expected Parquet files below {tmp_path}, got none"):
        SampleReader(str(tmp_path), 8, 7)
