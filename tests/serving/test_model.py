"""Which model is served: found, fixed to one version, and whole."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from components import artifacts, storage
from components.errors import ArtifactError
from components.tracking import Tracking, open_tracker, register_ensemble
from serving import pyfunc
from serving.model import LOADER, Model, resolve
from tests.components.tracking.stores import open_at, sqlite_uri


def make(folder: Path | str, fingerprint: str = "f1") -> str:
    """Write an artifact with the parts that matter here."""
    with artifacts.create(f"{folder}/ensemble", fingerprint, ()) as (aside, _):
        artifacts.write_json(f"{aside}/policy.json", {"threshold": 0.5})
        artifacts.write_json(f"{aside}/crm/config.json", {"name": "dcnv2"})
    return f"{folder}/ensemble"


@pytest.fixture
def ensemble(tmp_path: Path) -> Path:
    return Path(make(tmp_path / "run"))


def test_the_artifact_itself_is_a_model(ensemble: Path) -> None:
    found = resolve(str(ensemble))
    assert found == Model(str(ensemble), "", "f1")
    assert found.local() == str(ensemble)


def test_a_folder_that_holds_another_version_by_now_is_not_taken_for_the_deployed_one(ensemble: Path) -> None:
    deployed = resolve(str(ensemble))
    make(ensemble.parent, "f2")
    with pytest.raises(ArtifactError, match=rf"expected the version that was deployed, f1, at {ensemble}; got f2"):
        deployed.local()
    assert resolve(str(ensemble)).local() == str(ensemble)


def test_the_folder_of_a_run_stands_for_its_ensemble(ensemble: Path) -> None:
    assert resolve(str(ensemble.parent)) == resolve(str(ensemble))
    assert resolve(f"{ensemble.parent}/") == resolve(str(ensemble))


def test_a_relative_path_is_fixed(ensemble: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run in folders of their own."""
    monkeypatch.chdir(ensemble.parent.parent)
    assert resolve("run") == resolve(str(ensemble))
    assert resolve("run/ensemble") == resolve(str(ensemble))


def test_a_uri_of_the_local_disk_is_its_path(ensemble: Path) -> None:
    assert resolve(f"file://{ensemble}").uri == str(ensemble)


def test_a_model_in_a_bucket_is_copied_to_each_machine_that_serves_it(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make(f"{bucket}/run", "f2")
    found = resolve(f"{bucket}/run")
    assert (found.uri, found.version) == (f"{bucket}/run/ensemble", "f2")
    assert Path(found.local(), "policy.json").is_relative_to(tmp_path)
    assert artifacts.read_json(artifacts.join(found.local(), "policy.json")) == {"threshold": 0.5}


def test_a_process_starts_again_from_this_machines_copy_while_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = f"memory:///{tmp_path.name}/run"
    deployed = resolve(make(run))
    folder = deployed.local()
    fs, path = storage.filesystem(run)
    fs.rm(path, recursive=True)
    assert deployed.local() == folder
    make(run, "f2")
    assert deployed.local() == folder, "it is the version that was deployed"
    Path(folder, "policy.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"policy\.json is damaged"):
        deployed.local()
    with pytest.raises(ArtifactError, match=r"expected the version that was deployed, f3, at .*; got f2"):
        Model(deployed.uri, "", "f3").local()


def test_another_fingerprint_is_another_version(tmp_path: Path) -> None:
    assert resolve(make(tmp_path / "a", "f1")).version != resolve(make(tmp_path / "b", "f2")).version


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^model: expected a folder with an ensemble at .*/nothing; there is none$"):
        resolve(str(tmp_path / "nothing"))


def test_a_folder_without_an_ensemble_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"expected a finished artifact .* at {tmp_path}"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["policy.json", "crm/config.json"])
def test_a_file_that_changed_is_named(ensemble: Path, name: str) -> None:
    content = (ensemble / name).read_bytes()
    (ensemble / name).write_bytes(content[:-2] + b"!\n")
    for uri in (ensemble, ensemble.parent):
        with pytest.raises(ArtifactError, match=rf"ensemble/{name} is damaged: expected sha256"):
            resolve(str(uri))


@pytest.mark.parametrize("name", ["policy.json", "crm/config.json"])
def test_a_file_that_was_cut_or_is_gone_is_an_error(ensemble: Path, name: str) -> None:
    (ensemble / name).write_bytes((ensemble / name).read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=rf"{ensemble}/{name} is damaged: expected \d+ bytes, found"):
        resolve(str(ensemble))
    (ensemble / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{ensemble}/{name} is missing"):
        resolve(str(ensemble))


def test_an_unfinished_ensemble_is_no_model(ensemble: Path) -> None:
    (ensemble / artifacts.MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=f"expected a finished artifact .* at {ensemble}"):
        resolve(str(ensemble.parent))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with two versions of an ensemble, the alias on the second."""
    folder = tmp_path_factory.mktemp("registry")
    tracker, rows = open_at(folder), pd.DataFrame({"x": [0.0]})
    for number in (1, 2):
        make(folder / f"run{number}", f"f{number}")
        with tracker.run("full") as run:
            register_ensemble(run, folder / f"run{number}" / "ensemble", [], LOADER, ["pandas"], rows, rows)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_an_alias_is_fixed_to_the_version_that_it_names_now(registry: Path) -> None:
    found = resolve("models:/tandem@champion", sqlite_uri(registry))
    assert found == Model("models:/tandem/2", sqlite_uri(registry), "tandem/2")
    assert artifacts.require(found.local()).fingerprint == "f2"
    first = resolve("models:/tandem/1", sqlite_uri(registry))
    assert (first.version, artifacts.require(first.local()).fingerprint) == ("tandem/1", "f1")


def test_the_registry_of_the_environment_is_the_default(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(registry))
    assert resolve("models:/tandem@champion").tracking_uri == sqlite_uri(registry)


@pytest.mark.parametrize(
    "uri",
    [
        *("models:/tandem", "models:/", "models:/tandem/latest", "models:/tandem@a/1", "models:/m-0123/x/y"),
        *("models:/../1", "models:/a b/1", "models:/tandem@x;y", "models:/tandem/1\n", f"models:/{'n' * 129}/1"),
    ],
)
def test_a_registered_model_without_a_name_and_a_version_or_an_alias_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=f"^model: expected models:/NAME@ALIAS or models:/NAME/VERSION, got {re.escape(repr(uri))}$"):
        resolve(uri, f"sqlite:///{tmp_path}/none.db")
    assert not list(tmp_path.iterdir()), "looking for a model makes no store"


def test_a_registered_model_is_read_from_where_it_lay_while_the_registry_is_away(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = (Model(f"models:/tandem/{number}", sqlite_uri(registry), f"tandem/{number}") for number in (1, 2))
    folder = first.local()

    def away(*_: object) -> str:
        raise ArtifactError("the registry is away")

    monkeypatch.setattr("serving.model.fetch_ensemble", away)
    assert first.local() == folder
    with pytest.raises(ArtifactError, match="the registry is away"):
        second.local()


@pytest.mark.parametrize("uri", ["models:/tandem@nobody", "models:/tandem/7", "models:/other@champion"])
def test_a_model_that_is_not_registered_is_named(registry: Path, uri: str) -> None:
    with pytest.raises(ArtifactError, match=f"expected a registered ensemble at {uri} in sqlite:"):
        resolve(uri, sqlite_uri(registry))


def test_a_damaged_file_of_a_registered_model_is_named(registry: Path) -> None:
    (policy,) = [path for path in (registry / "mlflow-artifacts").rglob("policy.json") if "f1" in _fingerprint(path)]
    content = policy.read_bytes()
    try:
        policy.write_bytes(content[:-2] + b"!\n")
        with pytest.raises(ArtifactError, match=r"policy\.json is damaged: expected sha256"):
            resolve("models:/tandem/1", sqlite_uri(registry))
    finally:
        policy.write_bytes(content)


@pytest.mark.parametrize(
    ("path", "revision", "is_served"),
    [
        *(("meta-llama/Llama-2-7b-chat-hf", "a" * 40, True), ("meta-llama/Llama-2-7b-chat-hf", "main", False)),
        *(("/etc", "a" * 40, False), ("s3://bucket/llm", "a" * 40, False), ("../elsewhere", "a" * 40, False)),
        *(("components/llm", "a" * 40, False), ("tiny", "", False), (None, "a" * 40, False)),
    ],
)
def test_a_registered_adapter_leads_to_a_commit_of_a_hub_and_nowhere_else(
    registry: Path, tmp_path: Path, path: str | None, revision: str, is_served: bool
) -> None:
    with artifacts.create(f"{tmp_path}/ensemble", "f1", ()) as (aside, _):
        name = "base.json" if path else "adapter_config.json"
        artifacts.write_json(f"{aside}/llm/{name}", {"path": path, "revision": revision, "dtype": "float32"})
    config = Tracking.Config(registered_model="adapter")
    with open_tracker(config, sqlite_uri(registry), tmp_path / "spool.jsonl").run("full") as run:
        rows = pd.DataFrame({"x": [0.0]})
        version = register_ensemble(run, tmp_path / "ensemble", [], LOADER, ["pandas"], rows, rows)
    assert resolve(f"{tmp_path}/ensemble").local() == f"{tmp_path}/ensemble"
    found = Model(f"models:/adapter/{version}", sqlite_uri(registry), f"adapter/{version}")
    if is_served:
        assert resolve(found.uri, found.tracking_uri) == found
        return
    for load in (found.local, lambda: resolve(found.uri, found.tracking_uri)):
        with pytest.raises(
            ArtifactError, match=r"^model: expected models:/adapter/\d to adapt a model of a hub, .*: serve the folder of the run"
        ):
            load()


def test_registered_ensembles_name_the_loader_that_is_installed() -> None:
    assert pyfunc.__name__ == LOADER
    assert callable(pyfunc._load_pyfunc)


def _fingerprint(path: Path) -> str:
    return artifacts.require(str(path.parent)).fingerprint
