"""Applies events to one MLflow store. Each may be applied twice: the second time changes nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from components.file_lock import file_lock
from components.tracking import registry
from components.tracking.environment import patient_uploads
from components.tracking.files import local
from components.tracking.spool import FILE_KINDS, RUN_KEY, Event

KEY_TAG = "tandem.key"
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
T = TypeVar("T")


class RunNotYetError(Exception):
    """The run's beginning waits in another process's spool."""


class Store:
    """One experiment of one MLflow store."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self.client, self.experiment_id = client, experiment_id
        self.run_ids: dict[str, str] = {}  # our keys to MLflow's ids
        self._begun: set[str] = set()  # runs that this process made, so that nothing of them has to be asked for
        self._steps: dict[tuple[str, str], set[int]] = {}

    def apply(self, event: Event) -> str | None:
        """Record one event; return the version for a model, else None. Raises what MLflow raises."""
        body = event.body
        if event.kind == "start":
            return self._start(event)
        run_id = self.resolve(event.run)
        if event.kind == "batch":
            self._batch(run_id, body.get("params", {}), body.get("metrics", []), body.get("tags", {}))
        elif event.kind == "files":
            self._files(run_id, body["path"], body["to"])
        elif event.kind == "dataset":
            self._dataset(run_id, body)
        elif event.kind == "model":
            with patient_uploads():
                return registry.register(self.client, run_id, body)
        else:
            self.client.set_terminated(run_id, body["status"], event.at_ms)
        return None

    def find(self, tags: Mapping[str, str]) -> str | None:
        """Return the id of the newest run that has all these tags."""
        terms = [f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items()]
        found = self.client.search_runs([self.experiment_id], " and ".join(terms), max_results=1, order_by=["attributes.start_time DESC"])
        return found[0].info.run_id if found else None

    def resolve(self, run: str) -> str:
        """Return MLflow's id of a run; raise RunNotYetError where the store has none for our key."""
        run_id = self._search(run)
        if run_id is None:
            raise RunNotYetError(f"no run has the tag {KEY_TAG}={run}")
        return run_id

    def refuses(self, kind: str, error: Exception) -> bool:
        """Tell an event that cannot be taken from a store that is away."""
        if isinstance(error, MlflowException) and error.error_code in REFUSALS:
            return True
        if kind in FILE_KINDS:  # they go to another storage, whose faults must not hold up the figures
            return self._answers()
        return isinstance(error, (TypeError, KeyError, ValueError)) and not isinstance(error, json.JSONDecodeError)

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):
            self.client.get_experiment(self.experiment_id)
            return True
        return False

    def _search(self, run: str) -> str | None:
        if not run.startswith(RUN_KEY):
            return run
        run_id = self.run_ids.get(run) or self.find({KEY_TAG: run})
        if run_id is not None:
            self.run_ids[run] = run_id
        return run_id

    def _start(self, event: Event) -> None:
        body = event.body
        if (run_id := self._search(event.run)) is not None:
            self.client.update_run(run_id, status="RUNNING")
            self._batch(run_id, {}, [], body["tags"])
            return
        parent = {"mlflow.parentRunId": self.resolve(body["parent"])} if body["parent"] else {}
        tags = {**body["tags"], **parent, KEY_TAG: event.run}
        run_id = self.client.create_run(self.experiment_id, event.at_ms, tags, body["name"]).info.run_id
        self.run_ids[event.run] = run_id
        self._begun.add(run_id)

    def _batch(self, run_id: str, params: Mapping[str, str], rows: Sequence[tuple[str, float, int, int]], tags: Mapping[str, str]) -> None:
        new: dict[tuple[str, int], Metric] = {}
        for key, value, step, at_ms in rows:
            if step not in self._known(run_id, key):
                new.setdefault((key, step), Metric(key, value, at_ms, step))
        pieces = zip_longest(  # one request may carry 1000 metrics, 100 parameters, 100 tags, 1 MB
            _pieces([Param(key, value) for key, value in params.items()], 50),
            _pieces(list(new.values()), 800),
            _pieces([RunTag(key, value) for key, value in tags.items()], 50),
            fillvalue=[],
        )
        for some_params, some_metrics, some_tags in pieces:
            self._log(run_id, some_params, some_metrics, some_tags)
        for key, step in new:
            self._steps[run_id, key].add(step)

    def _log(self, run_id: str, params: Sequence[Param], metrics: Sequence[Metric], tags: Sequence[RunTag]) -> None:
        try:
            self.client.log_batch(run_id, metrics, params, tags, synchronous=True)
        except MlflowException as error:
            if not params or error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            # MLflow never changes a parameter: the first value stands, the new ones are added.
            known = self.client.get_run(run_id).data.params
            self.client.log_batch(run_id, metrics, [param for param in params if param.key not in known], tags, synchronous=True)

    def _known(self, run_id: str, key: str) -> set[int]:
        """Return the steps that a metric has, as far as they were not logged behind our back."""
        if (run_id, key) not in self._steps:
            history = [] if run_id in self._begun else self.client.get_metric_history(run_id, key)
            self._steps[run_id, key] = {metric.step for metric in history}
        return self._steps[run_id, key]

    def _files(self, run_id: str, uri: str, to: str | None) -> None:
        self.client.get_run(run_id)  # a dead server is noticed within the short timeout
        with local(uri) as path, patient_uploads():
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(run_id, str(path), to)

    def _dataset(self, run_id: str, body: Mapping[str, Any]) -> None:
        source = json.dumps({"uri": body["source"]})
        dataset = Dataset(body["name"], body["digest"], "local", source)
        tags = {"mlflow.data.context": body["context"], **body.get("tags", {})}  # what an earlier version kept has none
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(key, value) for key, value in tags.items()])])


def connect(uri: str, experiment: str, folder: Path) -> Store:
    """Open the store at `uri` and make its schema and experiment where they are missing.

    Artifacts of a database without server go to `mlflow-artifacts` beside the SQLite file, else below `folder`.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs with a traceback it raises as well
    if not uri.startswith("sqlite"):
        location = None if uri.startswith(("http", "databricks")) else (folder / "mlflow-artifacts").absolute().as_uri()
        return _open(uri, experiment, location)
    path = Path(uri.partition("///")[2].partition("?")[0]).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes that meet a fresh file at once would run MLflow's migrations into each other.
    with file_lock(path.with_name(path.name + ".lock")):
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as probe:
            probe.execute("PRAGMA schema_version")  # MLflow itself would try a file that cannot be opened for 100 s
        return _open(uri, experiment, (path.parent / "mlflow-artifacts").as_uri())


def _open(uri: str, name: str, location: str | None) -> Store:
    client = MlflowClient(uri, uri)
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return Store(client, client.create_experiment(name, location))
        except MlflowException:  # another process was first
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return Store(client, known.experiment_id)


def _pieces(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"
