from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tyro

from components.datasets.tabular import Tabular
from components.errors import ConfigError, DataError
from components.types import Field, FieldKind, Schema, Source
from tests.components.datasets.samples import TABULAR, write_tabular

Whole = Callable[[tuple[Source, ...]], pd.DataFrame]
CLICKS = pd.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"], "rating": [5, 3], "timestamp": [10, 20]})


def interactions(folder: Path, whole: Whole, **settings: Any) -> pd.DataFrame:
    return whole(Tabular(Tabular.Config(**settings)).read(str(folder)).interactions)


def save(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif ".json" in path.name:
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    return path


def test_three_tables_of_three_formats_are_read(tmp_path: Path, whole: Whole) -> None:
    write_tabular(tmp_path)
    tables = Tabular(Tabular.Config(**TABULAR)).read(str(tmp_path))
    click = whole(tables.interactions).iloc[1].to_dict()
    expected = {"user_id": "u1", "item_id": "i2", "rating": 2.0, "timestamp_s": 978_429_600.0, "device": "phone", "wait": 2.5}
    assert click == expected | {"file": "clicks.csv", "row": 3}  # 2001-01-02 10:00 UTC
    assert whole(tables.users).iloc[0].to_dict() == {"user_id": "u1", "city": "Köln", "age": 31.0, "file": "people.jsonl", "row": 1}
    thing = whole(tables.items).iloc[0]
    assert (thing["item_id"], thing["title"], list(thing["words"]), thing["row"]) == ("i1", "Red, round 1", ["red", "round"], 2)
    device, wait = Field("device", FieldKind.CATEGORICAL), Field("wait", FieldKind.NUMERIC)
    assert tables.schema.context_fields == (device, wait)


@pytest.mark.parametrize("name", ["c.parquet", "c.csv", "c.csv.gz", "c.jsonl", "c.jsonl.gz", "c.json"])
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path, whole: Whole) -> None:
    save(CLICKS, tmp_path / name)
    found = interactions(tmp_path, whole, interactions=name)
    assert found["user_id"].tolist() == ["1", "2"]
    assert found["item_id"].tolist() == ["a", "b"]
    assert found["rating"].tolist() == [5.0, 3.0]
    assert found["timestamp_s"].tolist() == [10.0, 20.0]
    assert found["row"].tolist() == ([2, 3] if ".csv" in name else [1, 2])


def test_a_folder_of_files_is_one_table_with_a_source_a_file(tmp_path: Path, whole: Whole) -> None:
    (tmp_path / "parts").mkdir()
    save(CLICKS, tmp_path / "parts" / "b.parquet")
    save(CLICKS, tmp_path / "parts" / "a.csv")
    save(CLICKS.head(0), tmp_path / "parts" / "c.parquet")  # an empty part is no error
    (tmp_path / "parts" / "_SUCCESS").touch()
    (tmp_path / "parts" / "notes.md").touch()
    tables = Tabular(Tabular.Config(interactions="parts")).read(str(tmp_path))
    assert [Path(source.path).name for source in tables.interactions] == ["a.csv", "b.parquet"]
    assert whole(tables.interactions)["row"].tolist() == [2, 3, 1, 2]


def test_a_label_is_a_rating_from_zero_to_one(tmp_path: Path, whole: Whole) -> None:
    save(pd.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "click": [True, False], "timestamp": [1, 2]}), tmp_path / "c.csv")
    tables = Tabular(Tabular.Config(interactions="c.csv", label="click")).read(str(tmp_path))
    assert whole(tables.interactions)["rating"].tolist() == [1.0, 0.0]
    assert tables.schema == Schema(0.0, 1.0, 0.5)


def test_ids_with_gaps_read_alike_from_every_format(tmp_path: Path, whole: Whole) -> None:
    gaps = CLICKS.assign(user_id=[7.0, None])
    for name in ("c.parquet", "c.jsonl"):
        save(gaps, tmp_path / name)
        found = interactions(tmp_path, whole, interactions=name)["user_id"]
        assert found.iloc[0] == "7"
        assert found.isna().tolist() == [False, True]


def test_times_come_in_milliseconds_formats_and_arrow_types(tmp_path: Path, whole: Whole) -> None:
    save(CLICKS.assign(timestamp=[1_500, 2_500]), tmp_path / "ms.csv")
    assert interactions(tmp_path, whole, interactions="ms.csv", time_format="ms")["timestamp_s"].tolist() == [1.0, 2.0]
    save(CLICKS.assign(timestamp=["02/01/1970", "never"]), tmp_path / "text.csv")
    found = interactions(tmp_path, whole, interactions="text.csv", time_format="%d/%m/%Y")["timestamp_s"]
    assert found.iloc[0] == 86_400
    assert found.isna().tolist() == [False, True]
    save(CLICKS.assign(timestamp=pd.to_datetime(["1970-01-02", None])), tmp_path / "arrow.parquet")
    assert interactions(tmp_path, whole, interactions="arrow.parquet")["timestamp_s"].iloc[0] == 86_400


def test_broken_values_stay_as_rows(tmp_path: Path, whole: Whole) -> None:
    (tmp_path / "c.csv").write_text("user_id,item_id,rating,timestamp\n1,a,abc,x\n1,a\n1,a,5,9,extra\n,a,5,9\n1,a,5,9\n")
    found = interactions(tmp_path, whole, interactions="c.csv")
    assert found["row"].tolist() == [2, 3, 4, 5, 6]
    assert found["rating"].isna().tolist() == [True, True, True, False, False]
    assert found["user_id"].isna().tolist() == [False, True, True, True, False]


def test_items_without_a_title_are_named_by_their_id(tmp_path: Path, whole: Whole) -> None:
    save(CLICKS, tmp_path / "c.csv")
    save(pd.DataFrame({"item_id": ["a", "b"], "title": ["Ant", None]}), tmp_path / "i.csv")
    for title, expected in (("title", ["Ant", "item b"]), ("", ["item a", "item b"])):
        config = Tabular.Config(interactions="c.csv", items="i.csv", title=title)
        assert whole(Tabular(config).read(str(tmp_path)).items)["title"].tolist() == expected


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    save(CLICKS.rename(columns={"user_id": "userid"}), tmp_path / "c.csv")
    with pytest.raises(
        DataError, match=r"c\.csv: expected a column 'user_id', found 'userid', 'item_id', 'rating', 'timestamp'; did you mean 'userid'"
    ):
        Tabular(Tabular.Config(interactions="c.csv")).read(str(tmp_path))


@pytest.mark.parametrize("name", ["c.parquet", "c.csv", "c.jsonl"])
def test_times_that_are_not_as_told_are_shown_with_the_key_that_tells(name: str, tmp_path: Path) -> None:
    save(CLICKS.assign(timestamp="2024-01-01 10:00:00"), tmp_path / name)
    said = rf"^dataset\.time_format: expected the format of times like '2024-01-01 10:00:00' in .*{name}, .*, got 's'$"
    with pytest.raises(ConfigError, match=said):
        Tabular(Tabular.Config(interactions=name)).read(str(tmp_path))
    Tabular(Tabular.Config(interactions=name, time_format="%Y-%m-%d %H:%M:%S")).read(str(tmp_path))


def test_a_column_missing_from_one_part_is_found_before_reading(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    save(CLICKS, tmp_path / "parts" / "a.parquet")
    save(CLICKS.drop(columns="rating"), tmp_path / "parts" / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: expected a column 'rating'"):
        Tabular(Tabular.Config(interactions="parts")).read(str(tmp_path))


@pytest.mark.parametrize("name", ["c.parquet", "c.csv", "c.jsonl"])
def test_an_empty_table_is_refused(name: str, tmp_path: Path) -> None:
    save(CLICKS.head(0), tmp_path / name)
    with pytest.raises(DataError, match=rf"expected rows in .*{name}; the table is empty"):
        Tabular(Tabular.Config(interactions=name)).read(str(tmp_path))


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a file, or a folder of files, .*interactions\.parquet; found none"):
        Tabular(Tabular.Config()).read(str(tmp_path))


def test_a_parquet_file_cut_off_is_named(tmp_path: Path) -> None:
    path = save(CLICKS, tmp_path / "interactions.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"interactions\.parquet can't be read as Parquet, it is damaged or cut off"):
        Tabular(Tabular.Config()).read(str(tmp_path))


def test_a_parquet_file_is_read_in_chunks_with_running_row_numbers(tmp_path: Path) -> None:
    rows = 100_001
    frame = pd.DataFrame({"user_id": range(rows), "item_id": 1, "rating": 1.0, "timestamp": 1})
    save(frame, tmp_path / "interactions.parquet")
    chunks = list(Tabular(Tabular.Config()).read(str(tmp_path)).interactions[0].read())
    assert [len(chunk) for chunk in chunks] == [100_000, 1]
    assert chunks[1]["row"].tolist() == [100_001]


def test_a_key_that_some_json_lines_lack_is_missing_there(tmp_path: Path, whole: Whole) -> None:
    rows = [{"user_id": "a", "item_id": "b", "timestamp": 1, "rating": 5}, {"user_id": "a", "item_id": "b", "timestamp": 1}]
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert interactions(tmp_path, whole, interactions="c.jsonl.gz")["rating"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_numeric": ("age",), "users": "u", "user_numeric": ("age",)}, r"differ between .*, got \['age'\] more than once"),
        ({"context_categorical": ("title",)}, r"other than \['title'\]"),
        ({"user_categorical": ("city",)}, r"dataset\.users: expected a file that holds the columns \['city'\]"),
        ({"label": "click", "rating": "stars"}, "a rating column or a label column, got both"),
        ({"rating": ""}, r"dataset\.rating: expected a value"),
        ({"time": ""}, r"dataset\.time: expected a value"),
        ({"time_format": "iso"}, r"dataset\.time_format: expected one of s, ms, us, ns or a format"),
        ({"positive_above": 5.0}, "expected rating_min <= positive_above < rating_max"),
        ({"rating_max": float("nan")}, "expected rating_min <= positive_above < rating_max"),
        ({"separator": "::"}, r"dataset\.separator: expected one character"),
    ],
)
def test_a_config_that_can_not_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tabular.Config(**settings)


def test_every_column_can_be_named_on_the_command_line() -> None:
    arguments = ["--items", "i.csv", "--item-categorical", "brand", "colour", "--label", "click", "--time-format", "%Y-%m-%d"]
    config = tyro.cli(Tabular.Config, args=arguments)
    assert config == Tabular.Config(items="i.csv", item_categorical=("brand", "colour"), label="click", time_format="%Y-%m-%d")
