"""What every file in components/datasets must give; a new one is found by itself and needs a sample in samples.py."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import importlib
import inspect
import pickle
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import tyro

import components.datasets
from components.datasets.checks import check_interactions, check_items, check_users
from components.errors import DataError
from components.types import Field, FieldKind, Source, Tables
from pipelines.raw import digest
from tests.components.datasets.samples import SAMPLES
from tests.object_store import upload

NO_DATASETS = {"__init__", "checks", "quarantine"}
FILES = sorted(path for path in Path(components.datasets.__path__[0]).glob("*.py") if path.stem not in NO_DATASETS)
NOW_S = 4e9


def classes(path: Path) -> list[type]:
    module = importlib.import_module(f"components.datasets.{path.stem}")
    found = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return [value for value in found if hasattr(value, "read")]


DATASETS = [dataset for path in FILES for dataset in classes(path)]
every_dataset = pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.__name__)


def tables_of(dataset: type, folder: Path) -> Tables:
    sample = SAMPLES[dataset.__name__]
    sample.write(folder)
    return dataset(dataset.Config(**sample.settings)).read(str(folder))


def chunks(sources: tuple[Source, ...]) -> Iterator[pd.DataFrame]:
    for source in sources:
        yield from source.read()


def rows(sources: tuple[Source, ...]) -> int:
    return sum(len(chunk) for chunk in chunks(sources))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_holds_a_dataset_with_a_sample(path: Path) -> None:
    assert classes(path), f"{path.name}: expected a class with a nested Config and read(folder)"
    assert {dataset.__name__ for dataset in classes(path)} <= set(SAMPLES), "add a Sample to samples.py"


@every_dataset
def test_a_folder_in_a_bucket_reads_as_one_on_a_disk(dataset: type, tmp_path: Path, bucket: str) -> None:
    here = tables_of(dataset, tmp_path)
    if any(tmp_path.iterdir()):
        upload(tmp_path, f"{bucket}/data")
    there = dataset(dataset.Config(**SAMPLES[dataset.__name__].settings)).read(f"{bucket}/data")
    for table in ("interactions", "users", "items"):
        parts = [[chunk for source in getattr(tables, table) for chunk in source.read()] for tables in (here, there)]
        assert len(parts[0]) == len(parts[1])
        for one, other in zip(*parts, strict=True):
            pd.testing.assert_frame_equal(one, other)
    assert [entry[:2] for entry in digest(there)] == [entry[:2] for entry in digest(here)]
    assert all(mark for _, _, mark in digest(there))


@every_dataset
def test_a_config_is_frozen_and_explains_every_field(dataset: type) -> None:
    assert dataclasses.is_dataclass(dataset.Config)
    assert dataset.Config.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    tree = ast.parse(textwrap.dedent(inspect.getsource(dataset.Config)))
    body = tree.body[0].body  # pyright: ignore[reportAttributeAccessIssue]
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.annotation) != "ClassVar":
            explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert explained, f"{ast.unparse(statement)} has no docstring"


@every_dataset
def test_a_config_is_made_from_the_command_line_by_defaults_alone(dataset: type) -> None:
    assert tyro.cli(dataset.Config, args=[]) == dataset.Config()


@every_dataset
def test_the_sample_is_read_back_whole(dataset: type, tmp_path: Path) -> None:
    sample, tables = SAMPLES[dataset.__name__], tables_of(dataset, tmp_path)
    found = (rows(tables.interactions), rows(tables.users), rows(tables.items))
    for count, expected in zip(found, (sample.interactions, sample.users, sample.items), strict=True):
        assert count == expected or expected is None


@every_dataset
def test_an_empty_file_is_named(dataset: type, tmp_path: Path) -> None:
    tables_of(dataset, tmp_path)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(gzip.compress(b"\n") if path.suffix == ".gz" else b"\n")
        with pytest.raises(DataError, match=rf"{path.name}.* is empty"):
            dataset(dataset.Config(**SAMPLES[dataset.__name__].settings)).read(str(tmp_path))
        path.write_bytes(whole)


@every_dataset
def test_sources_travel_to_other_processes_and_read_the_same_there(dataset: type, tmp_path: Path) -> None:
    tables = tables_of(dataset, tmp_path)
    moved = pickle.loads(pickle.dumps(tables))
    for name in ("interactions", "users", "items"):
        for here, there in zip(chunks(getattr(tables, name)), chunks(getattr(moved, name)), strict=True):
            pd.testing.assert_frame_equal(here, there)


@every_dataset
def test_chunks_have_the_canonical_columns_and_types(dataset: type, tmp_path: Path) -> None:
    tables = tables_of(dataset, tmp_path)
    schema = tables.schema
    for chunk in chunks(tables.interactions):
        require_text(chunk, "user_id", "item_id", "file")
        assert pd.api.types.is_float_dtype(chunk["rating"])
        assert pd.api.types.is_numeric_dtype(chunk["timestamp_s"])
        require_fields(chunk, schema.context_fields)
        if schema.shipped_split:
            assert set(chunk["split"]) <= {"train", "valid", "test"}
            assert all(isinstance(item, str) for history in chunk["history_items"] for item in history)
    for chunk in chunks(tables.users):
        require_text(chunk, "user_id", "file")
        require_fields(chunk, schema.user_fields)
    for chunk in chunks(tables.items):
        require_text(chunk, "item_id", "title", "file")
        require_fields(chunk, schema.item_fields)


@every_dataset
def test_rows_are_numbered_from_one_and_rise(dataset: type, tmp_path: Path) -> None:
    tables = tables_of(dataset, tmp_path)
    for source in (*tables.interactions, *tables.users):
        numbers = pd.concat([chunk["row"] for chunk in source.read()])
        assert pd.api.types.is_integer_dtype(numbers)
        assert numbers.iloc[0] in (1, 2)  # 2: the first line is a header
        assert numbers.is_monotonic_increasing
        assert numbers.is_unique


@every_dataset
def test_a_sound_sample_passes_all_row_checks(dataset: type, tmp_path: Path) -> None:
    tables = tables_of(dataset, tmp_path)
    known = pd.Index(pd.concat([chunk["item_id"] for chunk in chunks(tables.items)])) if tables.items else None
    reasons = [check_interactions(chunk, tables.schema, known, NOW_S) for chunk in chunks(tables.interactions)]
    reasons += [check_users(chunk, tables.schema) for chunk in chunks(tables.users)]
    reasons += [check_items(chunk, tables.schema) for chunk in chunks(tables.items)]
    assert set(pd.concat(reasons)) == {""}


@every_dataset
def test_a_field_belongs_to_one_table_only(dataset: type, tmp_path: Path) -> None:
    schema = tables_of(dataset, tmp_path).schema
    names = [field.name for field in (*schema.user_fields, *schema.item_fields, *schema.context_fields)]
    assert len(names) == len(set(names))
    assert schema.rating_min <= schema.positive_above < schema.rating_max


def require_text(chunk: pd.DataFrame, *names: str) -> None:
    for name in names:
        assert chunk[name].dtype == "str", f"{name} is {chunk[name].dtype}"


def require_fields(chunk: pd.DataFrame, fields: tuple[Field, ...]) -> None:
    for field in fields:
        column = chunk[field.name]
        if field.kind is FieldKind.NUMERIC:
            assert pd.api.types.is_numeric_dtype(column)
        elif field.kind is FieldKind.TAGS:
            assert all(isinstance(tag, str) for tags in column for tag in tags)
        else:
            require_text(chunk, field.name)
