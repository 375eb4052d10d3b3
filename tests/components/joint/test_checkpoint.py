from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components import storage
from components.errors import ArtifactError
from components.joint.checkpoint import Leftover, flaw, newest_whole, remove_orphans, require_whole, seal
from components.joint.plan import Position
from tests.components.joint.traps import Trap

CHECKPOINTS = ("checkpoint_2026-11-21_12-00-00", "checkpoint_2026-11-21_12-10-00", "checkpoint_2026-11-21_12-20-00")
SNAPSHOT = "checkpoint_manager_snapshot.json"
BEGINNING = Position()


def checkpoint(uri: str, aside: Path, position: Position = BEGINNING) -> str:
    """Write what Ray Train leaves when each of two workers hands in its own part."""
    fs, folder = storage.filesystem(uri)
    for rank in range(2):
        part = aside / f"part-{Path(uri).name}-{rank}"
        (part / "engine").mkdir(parents=True)
        (part / "engine" / f"state-{rank}.pt").write_bytes(bytes(range(100)))
        if rank == 0:
            (part / "position.json").write_text(position.to_json())
        seal(part, rank)
        fs.put(f"{part}/", f"{folder}/", recursive=True)
    return uri


@pytest.fixture
def run(folder: str, tmp_path: Path) -> str:
    """Three whole checkpoints, the newest at 12:20, and Ray's bookkeeping."""
    for step, name in enumerate(CHECKPOINTS):
        checkpoint(f"{folder}/{name}", tmp_path / "parts", Position(stage=1, step=20 * step))
    write(f"{folder}/{SNAPSHOT}", b'{"checkpoint_results": []}')
    write(f"{folder}/.validate_storage_marker", b"")
    return folder


def write(uri: str, content: bytes) -> None:
    with storage.open_file(uri, "wb") as file:
        file.write(content)


def names(uri: str) -> list[str]:
    fs, folder = storage.filesystem(uri)
    return sorted(Path(path).name for path in fs.ls(folder, detail=False)) if fs.exists(folder) else []


def truncate(fs: Any, path: str) -> None:
    fs.pipe_file(path, fs.cat_file(path)[:50])


def flip(fs: Any, path: str) -> None:
    content = bytearray(fs.cat_file(path))
    content[7] ^= 1
    fs.pipe_file(path, bytes(content))


def lose(fs: Any, path: str) -> None:
    fs.rm(path)


# python: hashlib.sha256(bytes(range(100))) and of the same with a 6 for the 7
DAMAGES = {
    "a file cut short": (truncate, "engine/state-1.pt", "engine/state-1.pt is damaged: expected 100 bytes, found 50"),
    "one bit": (flip, "engine/state-0.pt", "engine/state-0.pt is damaged: expected sha256 bce0aff19cf5..., found f2322735e4f5..."),
    "a file lost": (lose, "engine/state-0.pt", "engine/state-0.pt is missing: expected 100 bytes"),
    "a worker's part not there yet": (lose, "seal-1.json", "seal-1.json is missing"),
    "a torn seal": (truncate, "seal-0.json", "seal-0.json is damaged: expected JSON"),
}


def test_a_whole_checkpoint_has_no_flaw(folder: str, tmp_path: Path) -> None:
    whole = checkpoint(f"{folder}/checkpoint_1", tmp_path / "parts")
    assert flaw(whole, 2) is None
    assert flaw(whole, 3) == f"{whole}/seal-2.json is missing"  # a third worker would have written a part


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_word_and_the_next_one_taken(run: str, damage: str) -> None:
    damaging, file, expected = DAMAGES[damage]
    fs, folder = storage.filesystem(run)
    damaging(fs, f"{folder}/{CHECKPOINTS[2]}/{file}")
    said: list[str] = []
    assert newest_whole(run, 2, said.append) == f"{run}/{CHECKPOINTS[1]}"
    assert said == [f"checkpoint not used: {run}/{CHECKPOINTS[2]}/{expected}"]
    assert names(run) == [CHECKPOINTS[1]]


def test_the_newest_whole_one_alone_is_left(run: str) -> None:
    said: list[str] = []
    assert newest_whole(run, 2, said.append) == f"{run}/{CHECKPOINTS[2]}"
    assert names(run) == [CHECKPOINTS[2]]
    assert said == []


FARTHEST_FIRST = (Position(stage=1), Position(epoch=1, step=20), Position(step=20))  # the first epoch ends with step 20


def test_the_one_that_is_farthest_in_the_run_is_taken_whatever_the_clocks_of_nodes_said(folder: str, tmp_path: Path) -> None:
    for name, position in zip(CHECKPOINTS, FARTHEST_FIRST, strict=True):  # each one an hour later in the run than its name says
        checkpoint(f"{folder}/{name}", tmp_path / "parts", position)
    fs, path = storage.filesystem(folder)
    remove_orphans(folder, CHECKPOINTS[1])
    assert names(folder) == [*CHECKPOINTS[1:]]
    assert newest_whole(folder, 2, pytest.fail) == f"{folder}/{CHECKPOINTS[1]}"
    write(f"{folder}/{CHECKPOINTS[2]}/position.json", b'{"sta')  # all that its first worker wrote before it was lost
    remove_orphans(folder, CHECKPOINTS[1])
    assert names(folder) == [CHECKPOINTS[1]]
    fs.rm(f"{path}/{CHECKPOINTS[1]}/position.json")
    write(f"{folder}/{CHECKPOINTS[0]}/position.json", Position().to_json().encode())
    remove_orphans(folder, CHECKPOINTS[1])  # not to be gone on with: the next attempt looks at all there are
    assert names(folder) == [*CHECKPOINTS[:2]]


def test_a_worker_reads_no_checkpoint_that_is_not_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint_1"
    checkpoint(str(folder), tmp_path)
    require_whole(folder, 2)
    torch.save({"module": Trap(tmp_path / "marker")}, folder / "engine" / "state-1.pt")
    with pytest.raises(ArtifactError, match=r"checkpoint not used: .*engine/state-1\.pt"):
        require_whole(folder, 2)
    assert not (tmp_path / "marker").exists()


def test_where_none_is_whole_the_run_starts_afresh(run: str) -> None:
    fs, folder = storage.filesystem(run)
    for name in CHECKPOINTS:
        truncate(fs, f"{folder}/{name}/engine/state-1.pt")
    said: list[str] = []
    assert newest_whole(run, 2, said.append) is None
    assert len(said) == 3
    assert names(run) == []


def test_a_torn_list_of_checkpoints_is_named_and_set_aside(run: str) -> None:
    write(f"{run}/{SNAPSHOT}", b'{"checkpoint_resu')
    said: list[str] = []
    assert newest_whole(run, 2, said.append) == f"{run}/{CHECKPOINTS[2]}"
    assert said == [f"{run}/{SNAPSHOT} is damaged: expected JSON; it is kept as {SNAPSHOT}.corrupt"]
    assert names(run) == [CHECKPOINTS[2], f"{SNAPSHOT}.corrupt"]
    assert newest_whole(run, 2, pytest.fail) == f"{run}/{CHECKPOINTS[2]}"


def test_checkpoints_that_were_written_and_never_told_of_are_removed(run: str) -> None:
    remove_orphans(run, CHECKPOINTS[1])
    assert names(run) == [".validate_storage_marker", *CHECKPOINTS[:2], SNAPSHOT]
    remove_orphans(run, None)
    assert names(run) == [".validate_storage_marker", SNAPSHOT]


@pytest.mark.parametrize("known", [0, 1], ids=["the first attempt", "after a worker was replaced"])
def test_what_a_broken_run_left_goes_when_two_checkpoints_of_its_heir_stand(run: str, known: int) -> None:
    leftover = Leftover(run, CHECKPOINTS[0], known)
    for _ in range(1 - known):
        leftover.after_checkpoint()
    assert set(CHECKPOINTS) < set(names(run))  # a worker's part of the first own one may still be on its way
    for _ in range(3):
        leftover.after_checkpoint()
        assert set(names(run)) == {".validate_storage_marker", *CHECKPOINTS[1:], SNAPSHOT}
    nothing = Leftover(run, None)
    nothing.after_checkpoint()
    nothing.after_checkpoint()
    assert set(names(run)) == {".validate_storage_marker", *CHECKPOINTS[1:], SNAPSHOT}


def test_a_run_that_never_was_has_no_checkpoint(folder: str) -> None:
    assert newest_whole(folder, 2, pytest.fail) is None
    remove_orphans(folder, None)
