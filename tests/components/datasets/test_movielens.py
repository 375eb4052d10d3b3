from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components import artifacts
from components.datasets.movielens import MovieLens1m, MovieLens100k
from components.errors import ConfigError, DataError
from components.types import Field, FieldKind, Source
from tests.components.datasets.samples import lines, write_ml_1m, write_ml_100k

Whole = Callable[[tuple[Source, ...]], pd.DataFrame]


def test_the_columns_of_movielens_100k_are_read_in_readable_words(tmp_path: Path, whole: Whole) -> None:
    write_ml_100k(tmp_path)
    tables = MovieLens100k(MovieLens100k.Config()).read(str(tmp_path))
    rating = whole(tables.interactions).iloc[3]
    assert rating.to_dict() == {"user_id": "1", "item_id": "4", "rating": 4.0, "timestamp_s": 978_300_004.0, "file": "u.data", "row": 4}
    user = whole(tables.users).iloc[1].to_dict()
    expected = {"user_id": "2", "age": 53.0, "gender": "female", "occupation": "other", "zip": "94043", "file": "u.user", "row": 2}
    assert user == expected
    item = whole(tables.items).iloc[0]
    assert (item["title"], item["year"], list(item["genres"])) == ("Café 1 (1995)", "1995", ["Animation", "Children's", "Comedy"])


def test_the_columns_of_movielens_1m_are_read_in_readable_words(tmp_path: Path, whole: Whole) -> None:
    write_ml_1m(tmp_path)
    tables = MovieLens1m(MovieLens1m.Config()).read(str(tmp_path))
    user = whole(tables.users).drop(columns=["file", "row"]).iloc[0].to_dict()
    assert user == {"user_id": "1", "age": "under 18", "gender": "female", "occupation": "K-12 student", "zip": "48067"}
    item = whole(tables.items).iloc[4]
    assert (item["item_id"], item["title"], item["year"], list(item["genres"])) == ("5", "Café 5 (1995)", "1995", ["Animation", "Comedy"])
    assert tables.schema.item_noun == "movie"


def test_age_is_a_number_in_100k_and_a_band_in_1m(tmp_path: Path) -> None:
    write_ml_100k(tmp_path)
    write_ml_1m(tmp_path)
    for dataset, kind in ((MovieLens100k, FieldKind.NUMERIC), (MovieLens1m, FieldKind.CATEGORICAL)):
        assert dataset(dataset.Config()).read(str(tmp_path)).schema.user_fields[0] == Field("age", kind)


def test_broken_ratings_stay_as_rows_with_what_was_readable(tmp_path: Path, whole: Whole) -> None:
    write_ml_1m(tmp_path)
    lines(tmp_path / "ratings.dat", ["1::2::abc::978300000", "1::2::5::x", "1::2::5", "", "::2::5::9", "1::2::5::9"])
    found = whole(MovieLens1m(MovieLens1m.Config()).read(str(tmp_path)).interactions)
    assert found["row"].tolist() == [1, 2, 3, 4, 5, 6]
    assert found["rating"].isna().tolist() == [True, False, True, True, False, False]
    assert found["timestamp_s"].isna().tolist() == [False, True, True, True, False, False]
    assert found["user_id"].isna().tolist() == [False, False, True, True, True, False]


def test_a_title_without_a_year_has_none(tmp_path: Path, whole: Whole) -> None:
    write_ml_1m(tmp_path)
    lines(tmp_path / "movies.dat", ["1::unknown::Drama", "2::1984 (1956)::", "3::Land (1995) (V)::Drama", "4::Time (1990) (2001)::Drama"])
    found = whole(MovieLens1m(MovieLens1m.Config()).read(str(tmp_path)).items)
    assert [None if year != year else year for year in found["year"]] == [None, "1956", "1995", "2001"]
    assert list(found["genres"][1]) == []


def test_an_unknown_code_is_missing_and_not_an_error(tmp_path: Path, whole: Whole) -> None:
    write_ml_1m(tmp_path)
    lines(tmp_path / "users.dat", ["1::X::99::77::48067"])
    found = whole(MovieLens1m(MovieLens1m.Config()).read(str(tmp_path)).users)
    assert found[["gender", "age", "occupation"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("dataset", "names"),
    [(MovieLens100k, r"u\.data, u\.item, u\.user"), (MovieLens1m, r"ratings\.dat, movies\.dat, users\.dat")],
)
def test_missing_files_are_named_all_at_once(dataset: type, names: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"expected the files {names} in the folder {tmp_path}; missing: {names}"):
        dataset(dataset.Config()).read(str(tmp_path))


def test_only_the_missing_file_is_called_missing(tmp_path: Path) -> None:
    write_ml_1m(tmp_path)
    (tmp_path / "users.dat").unlink()
    with pytest.raises(DataError, match=r"missing: users\.dat\. "):
        MovieLens1m(MovieLens1m.Config()).read(str(tmp_path))


def test_a_threshold_that_no_rating_passes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a rating in \[1, 5\), got 5"):
        MovieLens1m.Config(positive_above=5.0)


def test_the_real_movielens_100k_is_whole(shared_data: Callable[[str], str], whole: Whole) -> None:
    tables = MovieLens100k(MovieLens100k.Config()).read(shared_data("ml-100k"))
    ratings, users, items = (whole(sources) for sources in (tables.interactions, tables.users, tables.items))
    assert (len(ratings), len(users), len(items)) == (100_000, 943, 1_682)
    assert int((ratings["rating"] > 3).sum()) == 55_375  # awk '$3 > 3' u.data
    assert not ratings.isna().any(axis=None)
    assert not users.isna().any(axis=None)
    assert items["year"].isna().sum() == 1  # item 267, titled "unknown"
    assert ratings["row"].tolist() == list(range(1, 100_001))


def test_the_real_movielens_1m_is_read_with_made_up_times(shared_data: Callable[[str], str], whole: Whole, tmp_path: Path) -> None:
    real = Path(shared_data("ml-1m"))
    rows = gzip.decompress((real / "ratings_notime.dat.gz").read_bytes()).decode().split()
    (tmp_path / "ratings.dat").write_text("".join(f"{row}::{956_703_932 + number}\n" for number, row in enumerate(rows)))
    for name in ("users.dat", "movies.dat"):
        (tmp_path / name).symlink_to(real / name)
    tables = MovieLens1m(MovieLens1m.Config()).read(str(tmp_path))
    ratings, users, items = (whole(sources) for sources in (tables.interactions, tables.users, tables.items))
    assert (len(ratings), len(users), len(items)) == (1_000_209, 6_040, 3_883)
    assert not ratings.isna().any(axis=None)
    np.testing.assert_array_equal(np.diff(ratings["timestamp_s"]), 1)
    assert ratings["user_id"].nunique() == 6_040
    assert not users.isna().any(axis=None)
    assert not items.isna().any(axis=None)


def test_how_the_files_came_is_not_in_the_fingerprint_of_what_is_read() -> None:
    agreed, not_asked = (artifacts.fingerprint(MovieLens1m.Config(download=download)) for download in (True, False))
    assert agreed == not_asked
