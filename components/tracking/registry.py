"""Ensembles as MLflow models: a folder of data, a loader module and requirements, never a pickle."""

from __future__ import annotations

import contextlib
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.utils.uri import is_local_uri

from components.tracking.files import local
from components.tracking.names import digest

CACHE = Path("~/.cache/tandem/models")
VERSION_TAG = "tandem.key"
EXAMPLE_ROWS = 5


def register(client: MlflowClient, run_id: str, body: Mapping[str, Any]) -> str:
    """Upload the model into its run, make it a version unless it is one already, and move the alias there; return the version."""
    name, key = body["name"], body["key"]
    versions = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    known = [found for found in versions if found.tags.get(VERSION_TAG) == key]
    version = known[0] if known else None
    if version is None:
        place = f"ensemble-{key[:8]}"  # among the run's artifacts; versions of one run lie beside each other
        _upload(client, run_id, place, body)
        _ensure_model(client, name)
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        version = client.create_model_version(name, source, run_id, {**body["tags"], VERSION_TAG: key}, await_creation_for=0)
    client.set_registered_model_alias(name, body["alias"], str(version.version))
    return str(version.version)


def fetch(uri: str, tracking_uri: str) -> tuple[Path, Mapping[str, Any]]:
    """Return a local folder with the MLflow model at `models:/name@alias`, `models:/name/version` or any artifact URI, and
    what it says of its loader and data."""
    if found := re.fullmatch(r"models:/([^/@]+)/([^/@]+)", fixed_version(uri, tracking_uri)):
        uri = MlflowClient(tracking_uri, tracking_uri).get_model_version_download_uri(*found.groups())
        folder = _kept(uri, tracking_uri)
    else:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri))
    return folder, Model.load(str(folder)).flavors[mlflow.pyfunc.FLAVOR_NAME]


def fixed_version(uri: str, tracking_uri: str) -> str:
    """Return `models:/name/version` for `models:/name@alias`; any other URI as it is."""
    if found := re.fullmatch(r"models:/([^/@]+)@([^/@]+)", uri):
        version = MlflowClient(tracking_uri, tracking_uri).get_model_version_by_alias(*found.groups()).version
        return f"models:/{found[1]}/{version}"
    return uri


def _kept(source: str, tracking_uri: str) -> Path:
    """Return the folder of a version, which never changes: where it lies, or fetched once and kept below CACHE."""
    if is_local_uri(source, is_tracking_or_registry_uri=False):
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, tracking_uri=tracking_uri))
    place = CACHE.expanduser() / digest(f"{tracking_uri} {source}")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as aside:
            fetched = mlflow.artifacts.download_artifacts(artifact_uri=source, tracking_uri=tracking_uri, dst_path=aside)
            with contextlib.suppress(OSError):  # another process was faster
                Path(fetched).rename(place)
    return place


def _upload(client: MlflowClient, run_id: str, place: str, body: Mapping[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as work, local(body["folder"]) as folder:
        # The model is described around an empty folder: its data goes up from where it lies and is not copied first.
        empty, packed = Path(work, "model"), Path(work, "packed")
        empty.mkdir()
        mlflow.pyfunc.save_model(
            path=str(packed),
            loader_module=body["loader_module"],
            data_path=str(empty),
            code_paths=list(body["code_paths"]) or None,
            mlflow_model=Model(artifact_path=place, run_id=run_id),
            signature=_signature(body["inputs"], body["outputs"]),
            input_example=body["inputs"].head(EXAMPLE_ROWS),
            pip_requirements=list(body["requirements"]),
        )
        client.log_artifacts(run_id, str(packed), place)
        client.log_artifacts(run_id, str(folder), f"{place}/data/{empty.name}")


def _signature(inputs: pd.DataFrame, outputs: pd.DataFrame) -> ModelSignature:
    """Describe the columns that go in and come out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that whole numbers cannot be missing is meant so
        return infer_signature(inputs, outputs)


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
