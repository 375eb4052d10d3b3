"""MovieLens-100K and MovieLens-1M as GroupLens ships them (Harper and Konstan, doi 10.1145/2827872)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pandas as pd
import pyarrow as pa

from components import artifacts
from components.datasets.raw.delimited import read_delimited
from components.datasets.raw.download import Archive, fetch
from components.datasets.raw.folder import missing_files, require_files
from components.datasets.raw.lines import require_lines
from components.datasets.raw.values import as_number, as_seconds, as_tags, as_text
from components.errors import ConfigError
from components.types import Field, FieldKind, Schema, Source, Tables

ENCODING = "latin-1"
RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp_s")
GENDERS = {"M": "male", "F": "female"}
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
AGES_1M = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56 or older"}
OCCUPATIONS_1M = (
    *("other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service", "doctor/health care"),
    *("executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales/marketing", "scientist"),
    *("self-employed", "technician/engineer", "tradesman/craftsman", "unemployed", "writer"),
)
ARCHIVE_1M = Archive("https://files.grouplens.org/datasets/movielens/ml-1m.zip", 5_917_549, "c4d9eecfca2ab87c1945afe126590906")
ITEM_FIELDS = (Field("genres", FieldKind.TAGS), Field("year", FieldKind.CATEGORICAL))

Read = Callable[[str], Iterator[pd.DataFrame]]


class MovieLens100k:
    """100,000 ratings of 943 users; the folder holds `u.data`, `u.item` and `u.user`."""

    FILES = ("u.data", "u.item", "u.user")
    URL = "https://grouplens.org/datasets/movielens/100k/"

    @dataclass(frozen=True)
    class Config:
        """How MovieLens-100K is read."""

        positive_above: float = 3.0
        """Ratings (1 to 5) above this are positive."""

        def __post_init__(self) -> None:
            _check_threshold(self.positive_above)

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, folder: str) -> Tables:
        """Find the three files; raises DataError naming those that are missing."""
        require_files(folder, self.FILES, f"They are in ml-100k.zip from {self.URL}.")
        return Tables(
            schema=_schema(self.config.positive_above, FieldKind.NUMERIC),
            interactions=(_source(folder, "u.data", partial(_ratings, separator="\t")),),
            users=(_source(folder, "u.user", _users_100k),),
            items=(_source(folder, "u.item", _items_100k),),
        )


class MovieLens1m:
    """1,000,209 ratings of 6,040 users; the folder holds `ratings.dat`, `movies.dat` and `users.dat`."""

    FILES = ("ratings.dat", "movies.dat", "users.dat")

    @dataclass(frozen=True)
    class Config:
        """How MovieLens-1M is read."""

        OPERATIONAL: ClassVar = ("download",)

        positive_above: float = 3.0
        """Ratings (1 to 5) above this are positive."""
        download: bool = False
        """Fetch missing files from GroupLens into the data folder. Their licence: research only, cite, no redistribution."""

        def __post_init__(self) -> None:
            _check_threshold(self.positive_above)

    def __init__(self, config: Config, archive: Archive = ARCHIVE_1M) -> None:
        self.config, self._archive = config, archive

    def would_fetch(self, folder: str) -> bool:
        """Tell whether `read` will download."""
        return self.config.download and bool(missing_files(folder, self.FILES))

    def read(self, folder: str) -> Tables:
        """Find the three files, download them where the user agreed; raises DataError naming those that are missing."""
        if self.would_fetch(folder):
            fetch(self._archive, [f"ml-1m/{name}" for name in ("README", "users.dat", "movies.dat", "ratings.dat")], folder)
        require_files(
            folder,
            self.FILES,
            "Put them there from ml-1m.zip (https://grouplens.org/datasets/movielens/1m/), or let --dataset.download fetch them "
            "from GroupLens (research only, cite, no redistribution).",
        )
        return Tables(
            schema=_schema(self.config.positive_above, FieldKind.CATEGORICAL),
            interactions=(_source(folder, "ratings.dat", partial(_ratings, separator="::")),),
            users=(_source(folder, "users.dat", _users_1m),),
            items=(_source(folder, "movies.dat", _items_1m),),
        )


def _check_threshold(positive_above: float) -> None:
    if not 1 <= positive_above < 5:
        raise ConfigError(f"dataset.positive_above: expected a rating in [1, 5), got {positive_above}")


def _schema(positive_above: float, age: FieldKind) -> Schema:
    words = [Field(name, FieldKind.CATEGORICAL) for name in ("gender", "occupation", "zip")]
    return Schema(1.0, 5.0, positive_above, user_fields=(Field("age", age), *words), item_fields=ITEM_FIELDS, item_noun="movie")


def _source(folder: str, name: str, read: Read) -> Source:
    path = artifacts.join(folder, name)
    require_lines(path, "the lines that GroupLens ships in it")
    return Source(path, partial(read, path))


def _ratings(path: str, separator: str) -> Iterator[pd.DataFrame]:
    for chunk in read_delimited(path, RATING_COLUMNS, separator, ENCODING):
        user, item, rating, time = chunk.columns.columns
        ids = {"user_id": as_text(user), "item_id": as_text(item)}
        yield chunk.frame({**ids, "rating": as_number(rating), "timestamp_s": as_seconds(time)})


def _users_100k(path: str) -> Iterator[pd.DataFrame]:
    for chunk in read_delimited(path, ("user_id", "age", "gender", "occupation", "zip"), "|", ENCODING):
        user, age, gender, occupation, code = chunk.columns.columns
        words = {"gender": _words(gender, GENDERS), "occupation": as_text(occupation), "zip": as_text(code)}
        yield chunk.frame({"user_id": as_text(user), "age": as_number(age), **words})


def _users_1m(path: str) -> Iterator[pd.DataFrame]:
    occupations = {str(number): name for number, name in enumerate(OCCUPATIONS_1M)}
    for chunk in read_delimited(path, ("user_id", "gender", "age", "occupation", "zip"), "::", ENCODING):
        user, gender, age, occupation, code = chunk.columns.columns
        words = {"gender": _words(gender, GENDERS), "occupation": _words(occupation, occupations), "zip": as_text(code)}
        yield chunk.frame({"user_id": as_text(user), "age": _words(age, AGES_1M), **words})


def _items_100k(path: str) -> Iterator[pd.DataFrame]:
    for chunk in read_delimited(path, ("item_id", "title", "release", "video", "url", *GENRES_100K), "|", ENCODING):
        item, title, _, _, _, _, *flags = chunk.columns.columns  # the first flag says "unknown": no genre
        marked = (pd.concat([as_text(flag) for flag in flags], axis=1) == "1").to_numpy()
        genres = pd.Series([[name for name, is_on in zip(GENRES_100K[1:], row, strict=True) if is_on] for row in marked], dtype=object)
        yield chunk.frame({"item_id": as_text(item), "title": as_text(title), "genres": genres, "year": _year(as_text(title))})


def _items_1m(path: str) -> Iterator[pd.DataFrame]:
    for chunk in read_delimited(path, ("item_id", "title", "genres"), "::", ENCODING):
        item, title, genres = chunk.columns.columns
        yield chunk.frame({"item_id": as_text(item), "title": as_text(title), "genres": as_tags(genres), "year": _year(as_text(title))})


def _words(codes: pa.Array, names: dict[str, str]) -> pd.Series:
    return as_text(codes).map(names).astype("str")


def _year(title: pd.Series) -> pd.Series:
    """Return the year that ends a title, "Heat (1995)", as text."""
    return title.str.extract(r".*\((\d{4})\)", expand=False)
