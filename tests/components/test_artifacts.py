"""Artifacts: whole or not at all, on a disk and in an object store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from components import artifacts, storage
from components.errors import ArtifactError, OutputBusyError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"inner": {"rate": 0.5}}


def write(uri: str, text: str = "seven\n", fingerprint: str = "f1") -> None:
    with artifacts.create(uri, fingerprint, CONFIG) as (folder, facts):
        write_file(f"{folder}/data.txt", text)
        write_file(f"{folder}/part/more.txt", "1234")
        facts["rows"] = 7


def break_off(uri: str, file: str, fingerprint: str = "f1", error: type[BaseException] = RuntimeError) -> None:
    """Fail while an artifact is being written; the error tells the folder."""
    with artifacts.create(uri, fingerprint, CONFIG) as (folder, _):
        write_file(f"{folder}/{file}", "half")
        raise error(folder)


def write_file(uri: str, text: str) -> None:
    fs, path = fsspec.core.url_to_fs(uri)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    fs.pipe_file(path, text.encode())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_manifest_names_every_file_with_its_size_and_sha256(tmp_path: Path) -> None:
    write(str(tmp_path / "tables"))
    manifest = artifacts.require(str(tmp_path / "tables"))
    # printf 'seven\n' | sha256sum, printf 1234 | sha256sum
    assert manifest.files == {
        "data.txt": {"bytes": 6, "sha256": "92107d54bb00a88f7223acaefe20ce92b9873c00951c88ecafc3145afc54836c"},
        "part/more.txt": {"bytes": 4, "sha256": "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"},
    }
    assert (manifest.fingerprint, manifest.facts, manifest.config["inner"]["rate"]) == ("f1", {"rows": 7}, 0.5)


def test_an_exception_while_writing_leaves_nothing_at_the_uri(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        break_off(str(tmp_path / "tables"), "data.txt")
    assert not (tmp_path / "tables").exists()
    assert artifacts.read_manifest(str(tmp_path / "tables")) is None


def test_an_exception_while_writing_leaves_the_earlier_artifact_as_it_was(tmp_path: Path) -> None:
    write(str(tmp_path / "tables"))
    before = content(tmp_path / "tables")
    with pytest.raises(KeyboardInterrupt):
        break_off(str(tmp_path / "tables"), "data.txt", "f2", KeyboardInterrupt)
    assert content(tmp_path / "tables") == before
    artifacts.verify(str(tmp_path / "tables"))


def test_a_process_killed_while_writing_leaves_nothing_at_the_uri(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from components import artifacts\n"
        "with artifacts.create(sys.argv[1], 'f1', {}) as (folder, facts):\n"
        "    Path(folder, 'data.txt').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "tables")], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -9
    assert artifacts.read_manifest(str(tmp_path / "tables")) is None
    write(str(tmp_path / "tables"))
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_all_of_an_artifact_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    rename = Path.rename

    def note_sync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)
        done.append(("on disk", "/".join(part.split(".partial")[0] for part in place.parts)))

    def note_rename(self: Path, target: Path) -> None:
        done.append(("renamed", target.name))
        rename(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    write(str(tmp_path / "tables"))
    content = ["tables", "tables/_manifest.json", "tables/data.txt", "tables/part", "tables/part/more.txt"]
    assert sorted(done[:5]) == [("on disk", name) for name in content]
    assert done[5:] == [("renamed", "tables"), ("on disk", "")]  # at last the folder that it appears in


def test_who_is_no_longer_allowed_to_is_stopped_when_all_but_the_last_step_is_done(folder: str) -> None:
    write(f"{folder}/tables")
    earlier = artifacts.require(f"{folder}/tables")

    def busy() -> None:
        raise OutputBusyError("another run took over")

    with pytest.raises(OutputBusyError), artifacts.create(f"{folder}/tables", "f2", {}, busy) as (aside, _):
        artifacts.write_json(f"{aside}/data.json", 1)
    assert artifacts.require(f"{folder}/tables") == earlier
    assert artifacts.publish_finished(f"{folder}/tables", "f2"), "what was written is whole"


def test_a_new_artifact_replaces_the_earlier_one_whole(tmp_path: Path) -> None:
    write(str(tmp_path / "tables"))
    with artifacts.create(str(tmp_path / "tables"), "f2", {}) as (folder, _):
        write_file(f"{folder}/other.txt", "x")
    assert set(content(tmp_path / "tables")) == {"other.txt", "_manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_files_of_a_broken_attempt_never_end_up_in_the_artifact(tmp_path: Path) -> None:
    for fingerprint in ("f1", "f2"):
        with pytest.raises(RuntimeError):
            break_off(str(tmp_path / "tables"), "train/part-000000-old.parquet", fingerprint)
    write(str(tmp_path / "tables"))
    assert set(content(tmp_path / "tables")) == {"data.txt", "part/more.txt", "_manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]


def test_a_broken_attempt_can_be_looked_at_until_the_next_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        break_off(str(tmp_path / "tables"), "quarantine.parquet")
    assert (Path(error.value.args[0]) / "quarantine.parquet").read_text() == "half"


def test_a_worker_that_outlived_its_run_cannot_write_into_the_next_artifact(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        break_off(str(tmp_path / "tables"), "part-000000-old.parquet")
    with artifacts.create(str(tmp_path / "tables"), "f1", {}) as (new, _):
        with pytest.raises(FileNotFoundError):
            (Path(error.value.args[0]) / "part-000001-old.parquet").write_text("late")
        write_file(f"{new}/data.txt", "x")
    assert set(content(tmp_path / "tables")) == {"data.txt", "_manifest.json"}


@pytest.mark.parametrize("length", [0, 3])
def test_a_truncated_file_makes_it_no_artifact(tmp_path: Path, length: int) -> None:
    write(str(tmp_path / "tables"))
    (tmp_path / "tables" / "data.txt").write_text("seven\n"[:length])
    assert artifacts.read_manifest(str(tmp_path / "tables")) is None


def test_a_missing_file_makes_it_no_artifact(tmp_path: Path) -> None:
    write(str(tmp_path / "tables"))
    (tmp_path / "tables" / "part" / "more.txt").unlink()
    assert artifacts.read_manifest(str(tmp_path / "tables")) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fingerprint": 1}', '"text"'])
def test_a_damaged_manifest_is_no_manifest(tmp_path: Path, text: str) -> None:
    write(str(tmp_path / "tables"))
    (tmp_path / "tables" / "_manifest.json").write_text(text)
    assert artifacts.read_manifest(str(tmp_path / "tables")) is None


def test_a_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"expected a finished artifact .* at {tmp_path}/tables; found none"):
        artifacts.require(str(tmp_path / "tables"))


def test_verify_finds_a_flipped_byte_and_names_the_file(tmp_path: Path) -> None:
    write(str(tmp_path / "tables"))
    artifacts.verify(str(tmp_path / "tables"))
    (tmp_path / "tables" / "part" / "more.txt").write_text("1235")
    assert artifacts.read_manifest(str(tmp_path / "tables")) is not None, "the size is the same"
    with pytest.raises(ArtifactError, match=r"tables/part/more\.txt is damaged: expected sha256 03ac67"):
        artifacts.verify(str(tmp_path / "tables"))


def test_a_data_file_that_is_called_like_the_manifest_is_covered_too(tmp_path: Path) -> None:
    with artifacts.create(str(tmp_path / "ensemble"), "f1", {}) as (folder, _):
        write_file(f"{folder}/llm/_manifest.json", "{}")
    assert list(artifacts.require(str(tmp_path / "ensemble")).files) == ["llm/_manifest.json"]


def test_in_an_object_store_the_manifest_is_the_commit(remote: str) -> None:
    fs, run = storage.filesystem(remote)
    with artifacts.create(f"{remote}/tables", "f1", CONFIG) as (folder, facts):
        write_file(f"{folder}/data.txt", "seven\n")
        facts["rows"] = 7
        assert artifacts.read_manifest(f"{remote}/tables") is None
    assert artifacts.require(f"{remote}/tables").files["data.txt"]["bytes"] == 6
    assert fs.find(run) == [f"{run}/tables/_manifest.json", f"{run}/tables/data.txt"]
    artifacts.verify(f"{remote}/tables")


def test_in_an_object_store_a_broken_attempt_leaves_the_earlier_artifact_and_no_file_in_the_next(remote: str) -> None:
    write(f"{remote}/tables")
    with pytest.raises(RuntimeError) as error:
        break_off(f"{remote}/tables", "train/part-000000-old.parquet", "f2")
    assert storage.exists(f"{error.value.args[0]}/train/part-000000-old.parquet")  # to be looked at
    artifacts.verify(f"{remote}/tables")
    with artifacts.create(f"{remote}/tables", "f2", {}) as (folder, _):
        write_file(f"{error.value.args[0]}/train/part-000001-old.parquet", "by a worker that outlived its run")
        write_file(f"{folder}/other.txt", "x")
    assert set(artifacts.require(f"{remote}/tables").files) == {"other.txt"}
    fs, run = storage.filesystem(remote)
    assert set(fs.find(f"{run}/tables")) == {f"{run}/tables/_manifest.json", f"{run}/tables/other.txt"}


def test_in_an_object_store_an_artifact_that_was_copied_in_part_is_none(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(f"{remote}/tables")
    fs, run = storage.filesystem(remote)
    copy = fs.copy

    def break_at_the_manifest(sources: list[str], targets: list[str]) -> None:
        if targets[0].endswith("_manifest.json"):
            raise KeyboardInterrupt
        copy(sources, targets)

    monkeypatch.setattr(fs, "copy", break_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        write(f"{remote}/tables", "eight\n", "f2")
    monkeypatch.undo()
    assert fs.cat_file(f"{run}/tables/data.txt") == b"eight\n"
    assert artifacts.read_manifest(f"{remote}/tables") is None
    write(f"{remote}/tables", "eight\n", "f2")
    assert {name.split("/")[-2] for name in fs.find(run)} == {"tables", "part"}


def break_while_publishing(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """Write the second version of an artifact, and be killed after the first one is gone and before the second one is there."""
    fs, _ = storage.filesystem(uri)
    broken, name = (Path, "rename") if storage.is_local(fs) else (fs, "copy")
    done = getattr(broken, name)

    def break_at_the_last(source: object, target: object) -> None:
        if "-old" not in str(target) and "data.txt" not in str(target):
            raise KeyboardInterrupt
        done(source, target)

    write(uri)
    with monkeypatch.context() as patch:
        patch.setattr(broken, name, break_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            write(uri, "eight\n", "f2")
    assert artifacts.read_manifest(uri) is None


def text_of(uri: str) -> bytes:
    fs, path = storage.filesystem(f"{uri}/data.txt")
    return fs.cat_file(path)  # pyright: ignore[reportReturnType]


def test_an_artifact_that_was_whole_when_its_run_was_killed_is_published_by_the_next(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{folder}/tables"
    assert not artifacts.publish_finished(uri, "f2")
    break_while_publishing(monkeypatch, uri)
    assert not artifacts.publish_finished(uri, "f3")
    assert artifacts.publish_finished(uri, "f2")
    artifacts.verify(uri)
    assert artifacts.require(uri).fingerprint == "f2"
    assert text_of(uri) == b"eight\n"


def test_who_lost_the_lock_publishes_nothing_that_another_run_left(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise OutputBusyError("taken over")

    break_while_publishing(monkeypatch, f"{folder}/tables")
    with pytest.raises(OutputBusyError):
        artifacts.publish_finished(f"{folder}/tables", "f2", lost)
    assert artifacts.read_manifest(f"{folder}/tables") is None


def test_what_was_damaged_before_it_could_be_published_is_not(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{folder}/tables"
    break_while_publishing(monkeypatch, uri)
    fs, path = storage.filesystem(folder)
    (aside,) = [left for left in fs.ls(path, detail=False) if ".partial-" in left and not left.rstrip("/").endswith("-old")]
    fs.pipe_file(f"{aside}/part-000001-late", b"by a worker that outlived its run")
    assert not artifacts.publish_finished(uri, "f2")
    fs.rm(f"{aside}/part-000001-late")
    flip(fs, f"{aside}/data.txt")
    assert not artifacts.publish_finished(uri, "f2")
    assert artifacts.read_manifest(uri) is None


def test_an_attempt_that_was_killed_while_it_wrote_is_not_published(folder: str) -> None:
    with pytest.raises(RuntimeError):
        break_off(f"{folder}/tables", "data.txt")
    assert not artifacts.publish_finished(f"{folder}/tables", "f1")


def cut(fs: fsspec.AbstractFileSystem, path: str) -> None:
    fs.pipe_file(path, fs.cat_file(path)[:3])  # pyright: ignore


def flip(fs: fsspec.AbstractFileSystem, path: str) -> None:
    content = bytearray(fs.cat_file(path))  # pyright: ignore
    content[0] ^= 1
    fs.pipe_file(path, bytes(content))


# printf 'reven\n' | sha256sum: the first bit of an s flipped is an r
DAMAGES = {
    "cut short": (cut, "data.txt", "tables/data.txt is damaged: expected 6 bytes, found 3"),
    "a flipped bit": (flip, "data.txt", "tables/data.txt is damaged: expected sha256 92107d54bb00..., found 05ea53d5f62b..."),
    "lost": (lambda fs, path: fs.rm(path), "part/more.txt", "tables/part/more.txt is missing: expected 4 bytes"),
    "a manifest cut short": (cut, "_manifest.json", "tables/_manifest.json is damaged: expected a manifest, found Expecting"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_by_file_with_what_was_expected_and_found(folder: str, damage: str) -> None:
    write(f"{folder}/tables")
    fs, run = storage.filesystem(folder)
    damaging, file, message = DAMAGES[damage]
    damaging(fs, f"{run}/tables/{file}")
    with pytest.raises(ArtifactError) as error:
        artifacts.verify(f"{folder}/tables")
    assert message in str(error.value)
    assert str(error.value).startswith(folder)
