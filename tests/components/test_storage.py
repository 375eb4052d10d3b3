"""Stores are opened in one place: without credentials of ours, without memory of what others change."""

from __future__ import annotations

import pickle

import pyarrow.fs
import pytest

from components import storage
from components.errors import ConfigError


def put(uri: str, content: bytes) -> None:
    with storage.open_file(uri, "wb") as file:
        file.write(content)


def test_files_are_listed_by_their_path_with_their_size_and_a_mark(folder: str) -> None:
    put(f"{folder}/a.txt", b"seven\n")
    put(f"{folder}/part/b.txt", b"1234")
    found = storage.listing(*storage.filesystem(folder))
    assert {name: size for name, (size, _) in found.items()} == {"a.txt": 6, "part/b.txt": 4}
    assert all(mark for _, mark in found.values())


def test_what_another_client_writes_is_seen_at_once(bucket: str) -> None:
    put(f"{bucket}/run/a", b"1")
    before = storage.listing(*storage.filesystem(f"{bucket}/run"))
    storage.filesystem(bucket)[0].call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key="run/a", Body=b"2")  # pyright: ignore
    storage.filesystem(bucket)[0].call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key="run/b", Body=b"3")  # pyright: ignore
    after = storage.listing(*storage.filesystem(f"{bucket}/run"))
    assert set(after) == {"a", "b"}
    assert after["a"] != before["a"]


def test_arrow_reaches_the_same_files(folder: str) -> None:
    put(f"{folder}/a.txt", b"seven\n")
    fs, path = storage.arrow(folder)
    assert fs.get_file_info(f"{path}/a.txt").size == 6
    assert fs.get_file_info(f"{path}/none").type == pyarrow.fs.FileType.NotFound


def test_no_credential_travels_with_a_store(s3: dict[str, str], bucket: str) -> None:
    put(f"{bucket}/a", b"1")  # connected
    travelling = pickle.dumps(storage.arrow(bucket)[0])
    assert s3["AWS_SECRET_ACCESS_KEY"].encode() not in travelling
    assert s3["AWS_ACCESS_KEY_ID"].encode() not in travelling


@pytest.mark.parametrize("secret", ["ab/cd", "ab@cd", "a+b=/c@d:e"])
def test_a_key_with_any_sign_in_a_uri_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigError, match=r"^s3://\*\*\*@bucket/run: expected a URI without user and password"):
        storage.filesystem(f"s3://AKIA:{secret}@bucket/run")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("in postgresql://me:ge/he@im@db/mlflow now", "in postgresql://***@db/mlflow now"),
        ("https://token@host/x and s3://a:b@c/d", "https://***@host/x and s3://***@c/d"),
        ("mysql://db/mlflow?password=geheim&timeout=5", "mysql://db/mlflow?password=***&timeout=5"),
        *[(plain, plain) for plain in ("models:/tandem@champion", "sqlite:////a@b/mlflow.db", "s3://bucket/data@v2", "http://host:5000/x")],
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(text: str, shown: str) -> None:
    assert storage.without_credentials(text) == shown


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"^s3://\*\*\*@bucket/run: expected a URI without user and password") as error:
        storage.filesystem("s3://key:secret@bucket/run")
    assert "secret@" not in str(error.value)
    storage.filesystem("memory://container@account/run")  # the host of a store may be written so


def test_an_unknown_kind_of_store_is_named() -> None:
    with pytest.raises(ConfigError, match="nosuch://bucket/run: Protocol not known: nosuch"):
        storage.filesystem("nosuch://bucket/run")


@pytest.mark.parametrize(("place", "expected"), [("s3://b/x", True), ("/a/b", False), ("runs/demo", False), ("org/model", False)])
def test_a_uri_is_told_from_a_path(place: str, expected: bool) -> None:
    assert storage.is_uri(place) is expected
