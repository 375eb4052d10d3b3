"""The way into tracking: opens a store, begins runs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from components.tracking import environment, names
from components.tracking.config import Tracking
from components.tracking.run import Run
from components.tracking.sender import Sender
from components.tracking.spool import RUN_KEY, Event, Spool

if TYPE_CHECKING:
    from components.tracking.store import Store


class Tracker:
    """Records runs in one experiment. A store that fails costs one warning and never the run."""

    def __init__(self, config: Tracking.Config, sender: Sender) -> None:
        """Made by `open_tracker`."""
        self.config, self.sender = config, sender

    def run(
        self,
        name: str,
        parent: Run | None = None,
        params: Any = None,
        tags: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Run:
        """Begin a run, or continue the one with this `key`.

        A key (the pipeline's fingerprint) finds its run again even where it was begun while the store was away.
        """
        reference = RUN_KEY + names.digest(key or uuid.uuid4().hex)
        shown = names.clean(name, names.NAME_LENGTH) or "run"
        body = {"name": shown, "parent": parent.reference if parent else None, "tags": names.tags(tags or {})}
        self.sender.record(Event("start", reference, time.time_ns() // 1_000_000, body))
        run = Run(self, reference, reference if key else self.sender.known_id(reference), outermost=parent is None)
        if params is not None:
            run.log_params(params)
        return run

    @property
    def is_behind(self) -> bool:
        """Tell whether the store lacks something: events that are kept, or files and models, which have to be recorded again."""
        return self.sender.is_behind

    def catch_up(self) -> None:
        """Send what is kept, where there is any, and the store answers."""
        self.sender.flush()


def open_tracker(config: Tracking.Config, default_uri: str, spool_path: Path | str, retry_s: float = 30.0) -> Tracker:
    """Open the store at `config.uri`, else at `default_uri`, and make it where it is missing; send what is kept in the spool, refused
    events included.

    The spool is a file on a local disk; processes of one machine may share it. After a failure the store is tried again
    at most every `retry_s` seconds.
    """
    environment.prepare()
    uri = Tracking.Config(uri=config.uri or default_uri).uri or default_uri  # checks the default as well
    spool = Spool(Path(spool_path).absolute())

    def connect() -> Store:
        from components.tracking.store import connect  # imports mlflow: seconds that a command line should not wait

        return connect(uri, config.experiment, spool.path.parent)

    tracker = Tracker(config, Sender(connect, spool, retry_s))
    tracker.sender.catch_up()
    return tracker


def log_trials(parent: Run, trials: pd.DataFrame, params: Sequence[str], metrics: Sequence[str]) -> None:
    """Record each row of a finished search as a run below `parent`.

    The index names the trials: the same name again adds nothing. A trial without any finite metric is FAILED.
    """
    for name, row in zip(trials.index, trials.to_dict(orient="records"), strict=True):
        chosen = {column: row[column] for column in params if not _is_missing(row[column])}
        figures = names.finite({column: row[column] for column in metrics})
        trial = parent.child(f"{name}")
        at_ms = time.time_ns() // 1_000_000
        trial.record("batch", {"params": names.flat(chosen), "metrics": [[key, value, 0, at_ms] for key, value in figures.items()]})
        trial.end("FINISHED" if figures else "FAILED")


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
