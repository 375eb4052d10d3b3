"""Prepare on a real, small Ray: clean tables, histories, splits and quarantine, checked against plain loops."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.datasets.movielens import MovieLens1m, MovieLens100k
from components.datasets.raw.lines import text_blocks
from components.errors import DataError
from components.features.split import SPLITS
from components.features.tables import load_store
from components.prompts.textualize import title_texts
from components.types import Schema, Source, Tables
from pipelines import prepare
from pipelines.full import _reason
from pipelines.recipes import ml_1m
from tests.pipelines.local_ray import local_ray
from tests.pipelines.peak_memory import PeakMemory
from tests.pipelines.preparing import (
    COLUMNS,
    CONFIG,
    LATE_ITEM,
    SCHEMA,
    Prepared,
    bad_rows,
    chunks,
    clean_rows,
    content,
    expected_samples,
    found_samples,
    run,
    tables,
)

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ML_100K, ML_1M = SHARED_DATA / "ml-100k", SHARED_DATA / "ml-1m"

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return clean_rows()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> Prepared:
    return run(tmp_path_factory.mktemp("prepare") / "tables", tables(rows.iloc[:200], rows.iloc[200:]))


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "BUCKET_ROWS", 60)


def test_splits_labels_and_histories_equal_those_of_plain_loops(prepared: Prepared, rows: pd.DataFrame) -> None:
    expected = expected_samples(rows, length=4, min_history=2)
    train, valid = int(0.8 * len(expected)), int(0.1 * len(expected))
    assert prepared.facts["rows"] == {"train": train, "valid": valid, "test": len(expected) - train - valid}
    assert found_samples(prepared, "train") == expected[:train]
    assert found_samples(prepared, "valid") == expected[train : train + valid]
    assert found_samples(prepared, "test") == expected[train + valid :]


def test_the_splits_follow_each_other_in_time(prepared: Prepared) -> None:
    times = [np.array(prepared.samples(split)["timestamp_s"]) for split in ("train", "valid", "test")]
    assert times[0].max() <= times[1].min()
    assert times[1].max() <= times[2].min()


def test_users_and_items_are_counted_on_training_samples_alone(prepared: Prepared) -> None:
    train, store = prepared.samples("train").to_pandas(), load_store(str(prepared.folder))
    users, items = (train[f"{table}_id"].value_counts() for table in ("user", "item"))
    assert store.users.set_index("user_id")["train_count"].to_dict() == {user: users.get(user, 0) for user in store.users["user_id"]}
    assert store.items.set_index("item_id")["train_count"].to_dict() == {item: items.get(item, 0) for item in store.items["item_id"]}
    mean = train["rating"].mean()
    smoothed = (train.groupby("item_id")["rating"].sum() + 5.0 * mean) / (items + 5.0)
    expected = [smoothed.get(item, mean) for item in store.items["item_id"]]
    np.testing.assert_allclose(store.items["train_rating_mean"], expected)


def test_an_item_that_training_never_showed_is_unknown_in_the_batch(prepared: Prepared) -> None:
    store, test = load_store(str(prepared.folder)), prepared.samples("test")
    slot = store.inputs.slots[store.inputs.item_slot]
    item_ids = store.batch(store.columns(test)).slot_ids_BS[:, slot.start].numpy()
    new = np.array([item == LATE_ITEM for item in test["item_id"].to_pylist()])
    assert 0 < new.sum() < len(new)
    assert (item_ids[new] == slot.unknown_row).all()
    assert (item_ids[~new] != slot.unknown_row).all()


def test_context_is_scaled_on_the_training_samples_that_have_it(prepared: Prepared) -> None:
    store, train = load_store(str(prepared.folder)), prepared.samples("train").to_pandas()
    assert train["wait"].isna().any()
    np.testing.assert_allclose(store.numeric["wait"], (train["wait"].mean(), train["wait"].std(ddof=0)), rtol=1e-9)
    assert store.vocabularies["device"].values.tolist() == ["desk", "phone"]


def test_users_without_a_sample_keep_their_row_and_are_unknown(prepared: Prepared) -> None:
    users = load_store(str(prepared.folder)).users
    assert users["user_id"].tolist() == [f"u{user:02}" for user in range(13)]
    assert users["train_count"].tolist()[12] == 0
    assert "Oslo" not in load_store(str(prepared.folder)).vocabularies["city"].values


def test_a_clean_table_leaves_the_quarantine_empty(prepared: Prepared) -> None:
    assert (prepared.quarantine, prepared.facts["quarantine"]) == ([], {})


def test_every_bad_row_is_in_quarantine_and_the_good_ones_come_out_as_without_them(
    prepared: Prepared, rows: pd.DataFrame, tmp_path: Path
) -> None:
    faults = bad_rows(rows)
    second = pd.concat([pd.DataFrame([row for row, _ in faults[:4]]), rows.iloc[200:], pd.DataFrame([row for row, _ in faults[4:]])])
    found = run(tmp_path / "tables", tables(rows.iloc[:200], second.loc[:, COLUMNS]))
    numbers = [1, 2, 3, 4, *range(len(second) - 3, len(second) + 1)]
    told = sorted((row["table"], row["file"], row["row"], row["reason"]) for row in found.quarantine)
    assert told == [("interactions", "rows-1.csv", number, reason) for number, (_, reason) in zip(numbers, faults, strict=True)]
    assert sum(found.facts["quarantine"].values()) == len(faults)
    assert found.facts["quarantine"]["interactions: duplicate"] == 1
    assert {**content(found), "quarantine": []} == content(prepared)


def test_too_many_bad_rows_end_the_run_before_anything_else_is_written(rows: pd.DataFrame, tmp_path: Path) -> None:
    spoilt = rows.assign(rating=rows["rating"].where(np.arange(len(rows)) % 10 > 0, np.nan))
    with pytest.raises(DataError, match=r"rows of interactions are bad \(10\.\d%\), accepted are 5\.0%"):
        run(tmp_path / "tables", tables(spoilt))
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["quarantine.parquet"]
    assert len(Prepared(tmp_path / "tables").quarantine) == -(-len(rows) // 10)


def test_a_table_without_a_usable_row_ends_the_run_and_its_rows_can_be_looked_at(rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one usable interaction, got none"):
        run(tmp_path / "tables", tables(rows.head(20).assign(rating=np.nan)))
    assert len(Prepared(tmp_path / "tables").quarantine) == 20


def test_bad_users_are_a_share_of_the_users_rows(rows: pd.DataFrame, tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": ["u00", "u01", None, "u02"], "city": ["Köln"] * 4})
    with pytest.raises(DataError, match=r"1 of 4 rows of users are bad \(25\.0%\), accepted are 5\.0%"):
        run(tmp_path / "tables", tables(rows, users=users))
    assert [(row["table"], row["file"], row["row"], row["reason"]) for row in Prepared(tmp_path / "tables").quarantine] == [
        ("users", "users.csv", 3, "null user_id")
    ]


def test_a_table_of_users_without_a_usable_row_ends_the_run_and_its_rows_can_be_looked_at(rows: pd.DataFrame, tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": ["", None], "city": ["Köln"] * 2}, dtype="str")
    with pytest.raises(DataError, match="expected at least one usable row of users, got none of 2"):
        run(tmp_path / "tables", tables(rows, users=users))
    assert len(Prepared(tmp_path / "tables").quarantine) == 2


def test_too_few_samples_for_three_splits_end_the_run(rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected samples for train, valid and test, got 0 with enough earlier interactions"):
        run(tmp_path / "tables", tables(rows.drop_duplicates("user_id")))


@pytest.mark.usefixtures("small_buckets")
def test_two_runs_give_the_same_rows_in_the_same_order(rows: pd.DataFrame, tmp_path: Path) -> None:
    spoilt = pd.concat([rows, rows.iloc[[5, 90, 250]], pd.DataFrame([row for row, _ in bad_rows(rows)])], ignore_index=True)[COLUMNS]
    first, again = (content(run(tmp_path / name, tables(spoilt.iloc[:200], spoilt.iloc[200:]))) for name in ("first", "again"))
    assert again == first
    assert len(first["quarantine"]) == 11


@pytest.mark.usefixtures("small_buckets")
def test_the_order_of_the_raw_rows_does_not_matter(prepared: Prepared, rows: pd.DataFrame, tmp_path: Path) -> None:
    shuffled = rows.sample(frac=1.0, random_state=1)
    found = content(run(tmp_path / "tables", tables(shuffled.iloc[:50], shuffled.iloc[50:51], shuffled.iloc[51:])))
    expected = content(prepared)
    for split in ("train", "valid", "test"):
        assert sorted(found.pop(split), key=str) == sorted(expected.pop(split), key=str)
    assert found == expected


def test_the_raw_rows_are_let_go_before_samples_are_written(rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[Any]] = []
    held: list[int] = []
    check, write = prepare._check, prepare._write

    def note(*arguments: Any) -> list[Any]:
        made.append(check(*arguments))
        return made[0]

    def look(*arguments: Any) -> dict[str, int]:
        held.append(len(made[0]))
        return write(*arguments)

    monkeypatch.setattr(prepare, "_check", note)
    monkeypatch.setattr(prepare, "_write", look)
    run(tmp_path / "tables", tables(rows))
    assert held == [0]


def test_a_damaged_file_is_named_by_the_error_that_its_reader_raised(rows: pd.DataFrame, tmp_path: Path, capfd: Any) -> None:
    whole = gzip.compress(rows.to_csv(index=False).encode())
    (tmp_path / "rows.csv.gz").write_bytes(whole[: len(whole) // 2])

    def read() -> Iterator[pd.DataFrame]:
        for _, text in text_blocks(str(tmp_path / "rows.csv.gz")):
            yield pd.DataFrame({"line": [text]})

    with pytest.raises(DataError) as raised:
        run(tmp_path / "tables", replace(tables(rows), interactions=(Source("", read),)))
    assert str(_reason(raised.value)).startswith(f"{tmp_path}/rows.csv.gz is damaged or cut off")
    assert "Traceback" not in capfd.readouterr().err  # nothing stands before the line that says why


def die_once(mark: Path) -> None:
    with contextlib.suppress(FileExistsError):
        mark.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


def mortal_chunks(frame: pd.DataFrame, file: str, mark: Path) -> Iterator[pd.DataFrame]:
    for number, chunk in enumerate(chunks(frame, file)):
        yield chunk
        if number == 1:
            die_once(mark)


def mortal(work: Callable[..., Any], mark: Path, *arguments: Any) -> Any:
    done = work(*arguments)
    die_once(mark)
    return done


def test_workers_that_are_killed_lose_no_row_and_double_none(
    prepared: Prepared, rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tables(rows.iloc[:200], rows.iloc[200:])
    reading = Source("", partial(mortal_chunks, rows.iloc[:200], "rows-0.csv", tmp_path / "died reading"))
    for name in ("look", "scatter", "settle", "write_part"):
        monkeypatch.setattr(prepare, name, partial(mortal, getattr(prepare, name), tmp_path / f"died in {name}"))
    found = run(tmp_path / "tables", replace(whole, interactions=(reading, *whole.interactions[1:])))
    at = {"died reading", "died in look", "died in scatter", "died in settle", "died in write_part"}
    assert {path.name for path in tmp_path.glob("died *")} == at
    assert content(found) == content(prepared)


def test_users_and_items_without_tables_of_their_own_come_from_the_interactions(rows: pd.DataFrame, tmp_path: Path) -> None:
    alone = Tables(Schema(1.0, 5.0, 3.0), tables(rows).interactions)
    found = run(tmp_path / "tables", alone)
    store = load_store(str(found.folder))
    assert store.users["user_id"].tolist() == sorted(rows["user_id"].unique())
    assert store.items["item_id"].tolist() == sorted(rows["item_id"].unique())
    assert sum(found.facts["rows"].values()) == len(expected_samples(rows, 4, 2))


def test_a_context_column_without_any_value_is_allowed(rows: pd.DataFrame, tmp_path: Path) -> None:
    found = run(tmp_path / "tables", tables(rows.assign(wait=np.nan, device=pd.Series([None] * len(rows), dtype="str"))))
    store = load_store(str(found.folder))
    assert store.numeric["wait"] == (0.0, 1.0)
    assert store.vocabularies["device"].size == 1


def test_hidden_titles_leave_prompts_the_ids_of_items_and_nothing_else_changes(
    prepared: Prepared, rows: pd.DataFrame, tmp_path: Path
) -> None:
    found = run(tmp_path / "tables", tables(rows.iloc[:200], rows.iloc[200:]), replace(CONFIG, hide_titles=True))
    store, shown = load_store(str(found.folder)), load_store(str(prepared.folder))
    assert title_texts(store.items, SCHEMA)[0] == "item i00"
    assert title_texts(shown.items, SCHEMA)[0] == "Film i00"
    pd.testing.assert_frame_equal(store.items, shown.items.drop(columns="title"))
    assert [found_samples(found, split) for split in SPLITS] == [found_samples(prepared, split) for split in SPLITS]


def test_another_number_of_rows_than_the_protocol_has_is_refused(rows: pd.DataFrame, tmp_path: Path) -> None:
    config = prepare.Config(history_length=4, min_history=2, expected_rows=(1, 2, 3))
    with pytest.raises(DataError, match=r"the protocol must give \(1, 2, 3\) rows of train, valid and test, got \(2\d\d, 2\d, 2\d\)"):
        run(tmp_path / "tables", tables(rows), config)


@pytest.mark.skipif(not ML_100K.is_dir(), reason=f"needs MovieLens-100K in {ML_100K}")
def test_movielens_100k_has_the_rows_of_the_published_protocol(tmp_path: Path) -> None:
    found = run(tmp_path / "tables", MovieLens100k(MovieLens100k.Config()).read(str(ML_100K)), prepare.Config())
    assert found.facts["rows"] == {"train": 76_228, "valid": 9_528, "test": 9_529}
    assert (found.quarantine, found.facts["work"]) == ([], (100_000, "interactions"))


@pytest.mark.skipif(not ML_1M.is_dir(), reason=f"needs MovieLens-1M in {ML_1M}")
def test_movielens_1m_has_the_rows_of_the_published_protocol_whatever_its_times(tmp_path: Path) -> None:
    rows = gzip.decompress((ML_1M / "ratings_notime.dat.gz").read_bytes()).decode().split()
    times = np.random.default_rng(0).integers(956_703_932, 1_046_454_590, len(rows))
    (tmp_path / "ratings.dat").write_text("".join(f"{row}::{time}\n" for row, time in zip(rows, times, strict=True)))
    for name in ("users.dat", "movies.dat"):
        (tmp_path / name).symlink_to(ML_1M / name)
    found = run(tmp_path / "tables", MovieLens1m(MovieLens1m.Config()).read(str(tmp_path)), ml_1m().prepare)
    assert found.facts["rows"] == {"train": 776_007, "valid": 97_000, "test": 97_002}
    assert (found.quarantine, found.facts["work"]) == ([], (1_000_209, "interactions"))


def many_rows(count: int, part: int) -> Iterator[pd.DataFrame]:
    """Generate interactions in chunks, so that no process ever holds all of them."""
    for start in range(0, count, 10_000):
        row = np.arange(start, start + 10_000) + part * count
        ids = {"user_id": "u" + pd.Series(row % 997).astype(str), "item_id": "i" + pd.Series(row % 499).astype(str)}
        yield pd.DataFrame({**ids, "rating": 1.0 + row % 5, "timestamp_s": 1_000_000.0 + row, "file": "generated", "row": row})


def test_the_drivers_memory_does_not_grow_with_the_interactions(tmp_path: Path) -> None:
    grown_mib: list[float] = []
    for rows in (20_000, 200_000):
        sources = tuple(Source("", partial(many_rows, rows // 2, part)) for part in range(2))
        with PeakMemory() as memory:
            found = run(tmp_path / f"tables-{rows}", Tables(Schema(1.0, 5.0, 3.0), sources))
        assert sum(found.facts["rows"].values()) == rows - 2 * 997
        grown_mib.append(memory.growth_mib)
    assert max(grown_mib) < 40.0, f"grown by {grown_mib} MiB; held as Python objects, 200,000 rows are 120 MiB"
