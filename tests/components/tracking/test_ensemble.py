"""Ensembles in the model registry of a SQLite store and of a real server."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from components.errors import ArtifactError
from components.tracking import Tracker, load_ensemble, register_ensemble
from components.tracking.ensemble import fetch_ensemble, fixed_version
from tests.components.tracking.stores import Server, dead_uri, open_at, rows, sqlite_uri

LOADER = """
import json, pathlib
import pandas as pd

class Line:
    def __init__(self, slope, shift):
        self.slope, self.shift = slope, shift
    def predict(self, rows):
        return pd.DataFrame({"p": self.slope * rows["x"] + self.shift})

def _load_pyfunc(folder):
    return Line(**json.loads(pathlib.Path(folder, "line.json").read_text()))
"""


@pytest.fixture
def loader_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (folder / "code_of_line").mkdir()
    (folder / "code_of_line" / "line_loader.py").write_text(LOADER)
    (folder / "line_model").mkdir()
    (folder / "line_model" / "line.json").write_text('{"slope": 2.0, "shift": 1.0}')
    monkeypatch.syspath_prepend(folder / "code_of_line")
    yield "line_loader"
    sys.modules.pop("line_loader", None)


def register_line(tracker: Tracker, folder: Path, loader_module: str, key: str | None = None) -> str | None:
    inputs = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
    outputs = pd.DataFrame({"p": [1.0, 3.0, 5.0]})
    code = [folder / "code_of_line" / "line_loader.py"]
    with tracker.run("full") as run:
        return register_ensemble(run, folder / "line_model", code, loader_module, ["pandas>=3.1"], inputs, outputs, key)


def test_an_ensemble_goes_through_a_server_and_comes_back_and_is_fetched_once(
    server: Server, folder: Path, loader_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert register_line(open_at(folder, server.uri), folder, loader_module) == "1"
    monkeypatch.setattr("components.tracking.registry.CACHE", folder / "cache")
    model = load_ensemble("models:/tandem@champion", server.uri, loader_module)
    assert list(model.predict(pd.DataFrame({"x": [3.0]}))["p"]) == [7.0]
    assert len({fetch_ensemble("models:/tandem/1", server.uri, loader_module) for _ in range(3)}) == 1
    assert len(list((folder / "cache").iterdir())) == 1, "one folder for the version, nothing half fetched"


def test_a_registered_ensemble_loads_with_the_same_predictions(folder: Path, loader_module: str) -> None:
    import mlflow.pyfunc

    tracker = open_at(folder)
    assert register_line(tracker, folder, loader_module) == "1"
    assert register_line(tracker, folder, loader_module) == "2"
    rows_in = pd.DataFrame({"x": [0.5, 10.0]})
    model = load_ensemble("models:/tandem@champion", sqlite_uri(folder), loader_module)
    assert list(model.predict(rows_in)["p"]) == [2.0, 21.0]
    first = load_ensemble("models:/tandem/1", sqlite_uri(folder), loader_module)
    assert list(first.predict(rows_in)["p"]) == [2.0, 21.0]
    assert rows(folder, "select alias, version from registered_model_aliases") == [("champion", 2)]

    assert len(list((folder / "mlflow-artifacts").rglob("MLmodel"))) == 2  # each version has its own files
    packed = next((folder / "mlflow-artifacts").rglob("MLmodel")).parent
    anyone = mlflow.pyfunc.load_model(str(packed))  # as people do who know MLflow alone
    assert list(anyone.predict(rows_in)["p"]) == [2.0, 21.0]
    assert anyone.metadata.signature is not None
    assert json.loads(anyone.metadata.signature.to_dict()["inputs"])[0]["name"] == "x"
    assert json.loads(anyone.metadata.signature.to_dict()["outputs"])[0]["name"] == "p"
    assert (packed / "requirements.txt").read_text().splitlines()[-1] == "pandas>=3.1"
    assert not [path for path in packed.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".bin")]


def test_registering_with_the_same_key_returns_the_same_version(folder: Path, loader_module: str) -> None:
    tracker = open_at(folder)
    example, code = pd.DataFrame({"x": [0.0]}), [folder / "code_of_line" / "line_loader.py"]
    with tracker.run("full", key="fp") as run:
        tags = {"synthetic": "true"}
        versions = [register_ensemble(run, folder / "line_model", code, loader_module, [], example, example, "fp", tags) for _ in range(2)]
    assert versions == ["1", "1"]
    assert rows(folder, "select value from model_version_tags where key = 'synthetic'") == [("true",)]


def test_what_lies_there_when_the_store_is_back_is_not_taken_for_the_model_that_it_did_not_get(folder: Path, loader_module: str) -> None:
    away, model = open_at(folder, dead_uri()), folder / "line_model" / "line.json"
    assert register_line(away, folder, loader_module, "a") is None
    assert away.is_behind
    model.write_text('{"slope": 5.0, "shift": 0.0}')  # of another configuration that ran into the same output
    back = open_at(folder)
    assert rows(folder, "select name, status from runs") == [("full", "FINISHED")]
    assert rows(folder, "select * from model_versions") == []
    model.write_text('{"slope": 2.0, "shift": 1.0}')  # the first one, made anew
    assert register_line(back, folder, loader_module, "a") == "1"
    assert not back.is_behind
    assert list(load_ensemble("models:/tandem/1", sqlite_uri(folder), loader_module).predict(pd.DataFrame({"x": [1.0]}))["p"]) == [3.0]


def test_code_from_the_store_is_never_run(folder: Path, loader_module: str) -> None:
    register_line(open_at(folder), folder, loader_module)
    copy = next((folder / "mlflow-artifacts").rglob("line_loader.py"))
    copy.write_text(f"open({str(folder / 'marker')!r}, 'w')\n" + LOADER)
    load_ensemble("models:/tandem@champion", sqlite_uri(folder), loader_module)
    assert not (folder / "marker").exists()
    with pytest.raises(ArtifactError, match="expected a model that json loads; got one for line_loader"):
        load_ensemble("models:/tandem@champion", sqlite_uri(folder), "json")


def test_an_unknown_model_is_an_error_that_names_it(folder: Path) -> None:
    open_at(folder)
    with pytest.raises(ArtifactError, match="expected a registered ensemble at models:/tandem@champion"):
        load_ensemble("models:/tandem@champion", sqlite_uri(folder), "json")


def test_rows_that_no_signature_describes_end_no_run(folder: Path) -> None:
    tracker, rows_in = open_at(folder), pd.DataFrame({"x": [object()]})
    with tracker.run("full") as run:
        assert register_ensemble(run, folder, [], "json", [], rows_in, rows_in) is None
    assert tracker.is_behind


def test_an_alias_is_fixed_to_a_version_and_the_version_stays(folder: Path, loader_module: str) -> None:
    tracker, store = open_at(folder), sqlite_uri(folder)
    register_line(tracker, folder, loader_module)
    fixed = fixed_version("models:/tandem@champion", store)
    assert fixed == "models:/tandem/1"
    (folder / "line_model" / "line.json").write_text('{"slope": 5.0, "shift": 0.0}')
    register_line(tracker, folder, loader_module)
    assert fixed_version("models:/tandem@champion", store) == "models:/tandem/2"
    for uri, slope in ((fixed, 2.0), ("models:/tandem/2", 5.0), ("models:/tandem@champion", 5.0)):
        assert json.loads(Path(fetch_ensemble(uri, store, loader_module), "line.json").read_text())["slope"] == slope


@pytest.mark.parametrize("uri", ["models:/tandem/1", "models:/tandem", "/some/folder", "s3://bucket/ensemble"])
def test_what_is_no_alias_is_fixed_already(folder: Path, uri: str) -> None:
    assert fixed_version(uri, sqlite_uri(folder)) == uri


def test_fetching_runs_no_loader(folder: Path, loader_module: str) -> None:
    register_line(open_at(folder), folder, loader_module)
    assert Path(fetch_ensemble("models:/tandem/1", sqlite_uri(folder), loader_module), "line.json").exists()
    assert loader_module not in sys.modules
    with pytest.raises(ArtifactError, match="expected a model that json loads; got one for line_loader"):
        fetch_ensemble("models:/tandem/1", sqlite_uri(folder), "json")


def test_data_outside_the_models_folder_is_refused(folder: Path, loader_module: str) -> None:
    register_line(open_at(folder), folder, loader_module)
    described = next((folder / "mlflow-artifacts").rglob("MLmodel"))
    text = described.read_text()
    described.write_text(re.sub(r"^( +data: ).*$", r"\1../../../..", text, flags=re.MULTILINE))
    assert described.read_text() != text
    with pytest.raises(ArtifactError, match=r"expected data inside the model's folder; got '\.\./\.\./\.\./\.\.'"):
        fetch_ensemble("models:/tandem/1", sqlite_uri(folder), loader_module)


@pytest.mark.parametrize("call", [fixed_version, lambda uri, store: fetch_ensemble(uri, store, "json")])
def test_an_alias_that_nobody_set_is_named_without_passwords(folder: Path, call: Callable[[str, str], str]) -> None:
    open_at(folder)
    with pytest.raises(ArtifactError, match="expected a registered ensemble at models:/tandem@champion"):
        call("models:/tandem@champion", sqlite_uri(folder))
    away = dead_uri().replace("http://", "http://user:secret@")
    with pytest.raises(ArtifactError) as error:
        call("models:/tandem@champion", away)
    assert "secret" not in str(error.value)
