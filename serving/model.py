"""Which model is served: a URI resolved once to a fixed version, so that every process loads the same."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import artifacts, storage
from components.errors import ArtifactError, one_line
from components.llm.config import BASE_FILE, COMMIT
from components.local_copy import local_copy, remember, remembered
from components.tracking.config import ALIAS, MODEL_NAME
from components.tracking.ensemble import fetch_ensemble, fixed_version
from serving.checkout import runs

LOGGER = logging.getLogger("ray.serve")
REGISTERED = "models:/"
HUB_ID = r"([\w-][\w.-]*/)?[\w-][\w.-]*"
LOADER = "serving.pyfunc"  # registered ensembles name it


@dataclass(frozen=True)
class Model:
    """A version of the ensemble."""

    uri: str  # of the artifact, or models:/NAME/VERSION
    tracking_uri: str
    version: str  # shown with every answer

    def local(self) -> str:
        """Return a folder with the ensemble that this process can read; raises ArtifactError where it is gone or another by now.

        This machine's copy stands in for a store that is away: a process must be able to start again then.
        """
        try:
            folder = self._fetched()
        except Exception as error:  # stores raise anything
            kept = self._kept()
            if kept is None:
                raise
            LOGGER.warning("%s is read from this machine's copy: %s", storage.without_credentials(self.uri), one_line(error))
            return kept
        if folder != self.uri:
            remember(self._name, folder)
        return folder

    @property
    def _name(self) -> str:
        return f"{self.tracking_uri} {self.uri} {self.version}"

    def _fetched(self) -> str:
        if self.uri.startswith(REGISTERED):
            return _registered(self.uri, self.tracking_uri)
        if (found := artifacts.require(self.uri).fingerprint) != self.version:
            raise ArtifactError(f"model: expected the version that was deployed, {self.version}, at {self.uri}; got {found}")
        return local_copy(self.uri)

    def _kept(self) -> str | None:
        folder = remembered(self._name)
        if folder is not None:
            artifacts.verify(folder)
        return folder


def resolve(uri: str, tracking_uri: str = "") -> Model:
    """Find the model and check every file of it; raises ArtifactError naming what is missing or damaged.

    Raises ConfigError where nothing says in which store a registered model is looked up.
    """
    if uri.startswith(REGISTERED):
        if not re.fullmatch(f"{REGISTERED}{MODEL_NAME}(@{ALIAS}|/[0-9]{{1,9}})", uri):  # MLflow would look elsewhere
            raise ArtifactError(f"model: expected models:/NAME@ALIAS or models:/NAME/VERSION, got {uri!r}")
        store = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _store()
        fixed = fixed_version(uri, store)
        _registered(fixed, store)
        return Model(fixed, store, fixed.removeprefix(REGISTERED))
    folder = _ensemble_folder(uri)
    manifest = artifacts.require(folder)
    artifacts.verify(folder)
    return Model(folder, "", manifest.fingerprint)


def _store() -> str:
    return f"sqlite:///{runs('tracking_uri: expected http://HOST:PORT or sqlite:////absolute/path.db')}/mlflow.db"


def _registered(uri: str, tracking_uri: str) -> str:
    """Return a folder of this machine with a registered version; raises ArtifactError where it is damaged or leads elsewhere."""
    folder = fetch_ensemble(uri, tracking_uri, LOADER)
    artifacts.verify(folder)  # this node's copy, which may have been kept for long
    base_file = Path(folder, "llm", BASE_FILE)
    if base_file.exists():
        _require_hub(uri, artifacts.read_json(str(base_file)))
    elif base_file.with_name("adapter_config.json").exists():  # transformers would look there for the base
        _require_hub(uri, {})
    return folder


def _require_hub(uri: str, base: Any) -> None:
    """Raise ArtifactError for an adapter of a model that is on no hub: a registry does not choose what is read from this machine."""
    path, revision = (str(base.get(key, "")) if isinstance(base, dict) else "" for key in ("path", "revision"))
    if not re.fullmatch(HUB_ID, path) or not re.fullmatch(COMMIT, revision) or Path(path).exists():
        raise ArtifactError(
            f"model: expected {uri} to adapt a model of a hub, named by id and commit; it names {path!r} at {revision!r}: "
            "serve the folder of the run instead"
        )


def _ensemble_folder(uri: str) -> str:
    """Return the artifact's own URI where a run's output folder was given."""
    fs, path = storage.filesystem(uri)
    if fs.exists(artifacts.join(path, "ensemble")):
        return fs.unstrip_protocol(artifacts.join(path, "ensemble")).removeprefix("file://")
    if not fs.exists(path):
        raise ArtifactError(f"model: expected a folder with an ensemble at {uri}; there is none")
    return fs.unstrip_protocol(path).removeprefix("file://")
