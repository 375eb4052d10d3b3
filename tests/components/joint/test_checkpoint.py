from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.joint.checkpoint import flaw, newest_whole, seal


def checkpoint(folder: Path, workers: int = 2) -> Path:
    """Write what Ray Train leaves when each worker hands in its own part."""
    for rank in range(workers):
        part = folder.parent / f"part-{rank}"
        (part / "engine").mkdir(parents=True)
        (part / "engine" / f"state-{rank}.pt").write_bytes(bytes(range(100)))
        (part / f"position-{rank}.json").write_text("{}")
        seal(part, rank)
        shutil.copytree(part, folder, dirs_exist_ok=True)
        shutil.rmtree(part)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three whole checkpoints, the newest at 12:20, and Ray's bookkeeping."""
    for name in ("checkpoint_2026-11-21_12-00-00", "checkpoint_2026-11-21_12-10-00", "checkpoint_2026-11-21_12-20-00"):
        checkpoint(tmp_path / "run" / name)
    (tmp_path / "run" / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_resu')  # torn, as a crash may leave it
    (tmp_path / "run" / ".validate_storage_marker").touch()
    return tmp_path / "run"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a file cut short": (lambda folder: truncate(folder / "engine" / "state-1.pt"), "engine/state-1.pt is damaged"),
    "one bit": (lambda folder: flip(folder / "engine" / "state-0.pt"), "engine/state-0.pt is damaged"),
    "a file lost": (lambda folder: (folder / "engine" / "state-0.pt").unlink(), "engine/state-0.pt is missing"),
    "a worker's part not there yet": (lambda folder: (folder / "seal-1.json").unlink(), "seal-1.json is missing"),
    "a torn seal": (lambda folder: truncate(folder / "seal-0.json"), "seal-0.json is damaged"),
}


def test_a_whole_checkpoint_has_no_flaw(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint_1")
    assert flaw(str(folder), 2) is None
    assert flaw(folder.as_uri(), 2) is None
    assert flaw(str(folder), 3) == f"{folder}/seal-2.json is missing"  # a third worker would have written a part


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_word_and_the_next_one_taken(run: Path, damage: str) -> None:
    newest, before = sorted(run.glob("checkpoint_2026*"))[:0:-1]
    damaging, expected = DAMAGES[damage]
    damaging(newest)
    said: list[str] = []
    assert newest_whole(str(run), 2, said.append) == str(before)
    assert said == [f"checkpoint not used: {newest}/{expected}"]


def test_the_newest_whole_one_alone_is_left(run: Path) -> None:
    said: list[str] = []
    assert newest_whole(str(run), 2, said.append) == str(run / "checkpoint_2026-11-21_12-20-00")
    assert [path.name for path in run.iterdir()] == ["checkpoint_2026-11-21_12-20-00"]
    assert said == []


def test_where_none_is_whole_the_run_starts_afresh(run: Path) -> None:
    for folder in run.glob("checkpoint_2026*"):
        truncate(folder / "engine" / "state-1.pt")
    said: list[str] = []
    assert newest_whole(str(run), 2, said.append) is None
    assert len(said) == 3
    assert list(run.iterdir()) == []


def test_a_run_that_never_was_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_whole(str(tmp_path / "none"), 2, pytest.fail) is None
