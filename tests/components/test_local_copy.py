"""One copy a machine of a folder in a store: whole or not there, shared, and another one for another content."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components import storage
from components.errors import ArtifactError
from components.local_copy import KEPT_S, local_copy


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"tandem-copies-{os.getuid()}"


@pytest.fixture
def model(remote: str) -> str:
    put(f"{remote}/llm/config.json", b"{}")
    put(f"{remote}/llm/part/model.safetensors", b"weights")
    return f"{remote}/llm"


def put(uri: str, content: bytes) -> None:
    with storage.open_file(uri, "wb") as file:
        file.write(content)


def content(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


@pytest.fixture
def fetched(model: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each fetch took."""
    fs, counts = storage.filesystem(model)[0], list[int]()
    get = fs.get

    def counted(sources: list[str], targets: list[str]) -> None:
        counts.append(len(sources))
        get(sources, targets)

    monkeypatch.setattr(fs, "get", counted)
    return counts


def test_a_local_folder_is_its_own_copy(tmp_path: Path, copies: Path) -> None:
    assert local_copy(str(tmp_path)) == str(tmp_path)
    assert local_copy(tmp_path.as_uri()) == str(tmp_path)
    assert not copies.exists()


def test_a_copy_has_all_files_and_is_fetched_once(model: str, fetched: list[int], copies: Path) -> None:
    found = local_copy(model)
    assert content(found) == {"config.json": b"{}", "part/model.safetensors": b"weights"}
    assert local_copy(model) == found
    assert fetched == [2]
    assert copies.stat().st_mode & 0o777 == 0o700


def test_another_content_has_another_copy(model: str) -> None:
    before = local_copy(model)
    time.sleep(0.002)
    put(f"{model}/part/model.safetensors", b"WEIGHTS")
    after = local_copy(model)
    assert content(after)["part/model.safetensors"] == b"WEIGHTS"
    assert content(before)["part/model.safetensors"] == b"weights"  # whoever reads it goes on


def test_those_that_want_it_at_once_share_one_copy(model: str, copies: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        (found,) = set(pool.map(lambda _: local_copy(model), range(4)))
    assert content(found)["config.json"] == b"{}"
    assert [path for path in copies.iterdir() if path.is_dir()] == [Path(found)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_fetch_that_broke_off_leaves_no_copy(
    model: str, copies: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    fs = storage.filesystem(model)[0]

    def half(sources: list[str], targets: list[str]) -> None:
        Path(targets[0]).write_bytes(b"{")
        raise error

    monkeypatch.setattr(fs, "get", half)
    with pytest.raises(error):
        local_copy(model)
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(copies.parent))
    assert content(local_copy(model))["config.json"] == b"{}"


def test_a_folder_that_changes_while_it_is_copied_is_not_taken_for_a_whole_one(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = storage.filesystem(model)[0]
    get: Callable[..., Any] = fs.get

    def meanwhile(sources: list[str], targets: list[str]) -> None:
        get(sources, targets)
        put(f"{model}/part/model.safetensors", b"longer weights")

    monkeypatch.setattr(fs, "get", meanwhile)
    with pytest.raises(ArtifactError, match="/llm changed while it was copied"):
        local_copy(model)


def test_nothing_to_copy_is_an_error(remote: str) -> None:
    with pytest.raises(ArtifactError, match=f"expected files below {remote}/none, found none"):
        local_copy(f"{remote}/none")


def test_copies_that_nobody_asked_for_in_a_week_are_removed(model: str, remote: str) -> None:
    old, kept = local_copy(model), local_copy(f"{model}/part")
    for folder, age_s in ((old, KEPT_S + 60), (kept, KEPT_S - 60)):
        os.utime(folder, (time.time() - age_s, time.time() - age_s))
    put(f"{remote}/other/config.json", b"{}")
    local_copy(f"{remote}/other")
    assert not Path(old).exists()
    assert Path(kept).exists()
