"""Ensembles in the model registry: registered with their data and loader, loaded without running code from the store."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from components.errors import ArtifactError
from components.storage import without_credentials
from components.tracking import environment, names
from components.tracking.names import digest
from components.tracking.run import Run


def register_ensemble(
    run: Run,
    model_folder: Path | str,
    code_paths: Sequence[Path | str],
    loader_module: str,
    requirements: Sequence[str],
    inputs: pd.DataFrame,
    outputs: pd.DataFrame,
    key: str | None = None,
    tags: Mapping[str, Any] | None = None,
) -> str | None:
    """Make the folder a new version of the registered model, with the alias on it; return the version, None where it was not taken.

    The model is a pyfunc without pickle: MLflow calls `loader_module._load_pyfunc(folder)`, found in `code_paths` (copied
    along) or installed, and `predict` of what it returns. `inputs` and `outputs` are rows as `predict` takes and gives
    them: they make the signature, the first inputs the example. `requirements` are pip lines.
    A `key` (a fingerprint) registers once: the same key in the same run returns the version that is there. `tags` are those of the
    version.
    """
    body = {
        "folder": str(model_folder),
        "code_paths": [str(path) for path in code_paths],
        "loader_module": loader_module,
        "requirements": list(requirements),
        "inputs": inputs,
        "outputs": outputs,
        "name": run.tracker.config.registered_model,
        "alias": run.tracker.config.alias,
        "key": digest(key or uuid.uuid4().hex),
        "tags": names.tags(tags or {}),
    }
    return run.record("model", body)


def load_ensemble(uri: str, tracking_uri: str, loader_module: str) -> Any:
    """Load what `register_ensemble` made, by `models:/name@alias`, `models:/name/version` or a folder's URI.

    The loader is the installed module, never the copy in the store: whoever can write there gets no code run here.
    Raises ArtifactError where there is no such model or it asks for another loader.
    """
    folder = fetch_ensemble(uri, tracking_uri, loader_module)  # first: it knows whether this is the model's loader
    return importlib.import_module(loader_module)._load_pyfunc(folder)


def fetch_ensemble(uri: str, tracking_uri: str, loader_module: str) -> str:
    """Return a local folder with the data of what `register_ensemble` made; raises ArtifactError as `load_ensemble` does."""
    registry = _registry()
    try:
        folder, flavour = registry.fetch(uri, tracking_uri)
    except Exception as error:  # MLflow, its transports and a damaged file raise anything
        raise _not_there(uri, tracking_uri, error) from error
    if flavour.get("loader_module") != loader_module:
        raise ArtifactError(f"{uri}: expected a model that {loader_module} loads; got one for {flavour.get('loader_module')}")
    data = (folder / flavour.get("data", "")).resolve()
    if not data.is_relative_to(folder.resolve()):
        raise ArtifactError(f"{uri}: expected data inside the model's folder; got {flavour['data']!r}")
    return str(data)


def fixed_version(uri: str, tracking_uri: str) -> str:
    """Return `models:/name/version` for an alias, which may move later; raises ArtifactError where there is no such model."""
    registry = _registry()
    try:
        return registry.fixed_version(uri, tracking_uri)
    except Exception as error:
        raise _not_there(uri, tracking_uri, error) from error


def _registry() -> Any:
    environment.prepare()
    from components.tracking import registry  # imports mlflow: seconds that a command line should not wait

    return registry


def _not_there(uri: str, tracking_uri: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"expected a registered ensemble at {without_credentials(f'{uri} in {tracking_uri}')}; {without_credentials(str(error))}"
    )
