"""A run that is being recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from components.tracking import names
from components.tracking.spool import Event

if TYPE_CHECKING:
    from components.tracking.tracker import Tracker


class Run:
    """One run. Leaving its `with` block ends it: FINISHED, FAILED on an error, KILLED on Ctrl-C. No method raises for tracking's sake."""

    def __init__(self, tracker: Tracker, reference: str, scope: str, outermost: bool = True) -> None:
        """Made by `Tracker.run` and `Run.child`; `scope` is what the keys of children are derived from."""
        self.tracker, self.reference, self.scope = tracker, reference, scope
        self._outermost = outermost

    @property
    def run_id(self) -> str:
        """MLflow's id, or our key while the store has not answered yet."""
        return self.tracker.sender.known_id(self.reference)

    def child(self, name: str, params: Any = None, tags: Mapping[str, Any] | None = None) -> Run:
        """Begin a run below this one. Its name is its key: the same name below the same parent continues that run."""
        return self.tracker.run(name, self, params, tags, key=f"{self.scope}\n{name}")

    def log_params(self, params: Any) -> None:
        """Record a (nested) dataclass or mapping, names joined by dots. The first value of a parameter stands."""
        if found := names.flat(params):
            self.record("batch", {"params": found})

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Record figures of one step in one request; what is not finite is left out. The first value of a (metric, step) stands."""
        at_ms = _now_ms()
        rows = [[name, value, int(step), at_ms] for name, value in names.finite(metrics).items()]
        if rows:
            self.record("batch", {"metrics": rows})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record tags; a later value replaces an earlier one."""
        self.record("batch", {"tags": names.tags(tags)})

    def log_files(self, path: Path | str, artifact_path: str | None = None) -> None:
        """Upload a file, or a folder's content, from a local path or any fsspec URI; never kept for later: see `Tracker.is_behind`."""
        self.record("files", {"path": str(path), "to": names.safe_key(artifact_path) if artifact_path else None})

    def log_dataset(self, name: str, source: str, digest: str, context: str = "training", tags: Mapping[str, Any] | None = None) -> None:
        """Record which data the run read; `digest` is its fingerprint, at most 36 characters."""
        where = names.clean(source, 8000)
        body = {"name": names.clean(name, 500), "source": where, "digest": names.clean(digest, 36), "context": names.clean(context, 500)}
        self.record("dataset", {**body, "tags": names.tags(tags or {})})

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.record("end", {"status": status})

    def record(self, kind: str, body: dict[str, Any]) -> str | None:
        """Hand one event over."""
        return self.tracker.sender.record(Event(kind, self.reference, _now_ms(), body))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, SystemExit):
            self.set_tags({"tandem.error": type(error).__name__})
        self.end(_status(error))
        if self._outermost:
            self.tracker.sender.flush()


def _status(error: BaseException | None) -> str:
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, KeyboardInterrupt) or (isinstance(code, int) and code > 128):
        return "KILLED"  # the shell's code of a program that a signal ended is 128 + its number
    return "FINISHED" if error is None or (isinstance(error, SystemExit) and code in (None, 0)) else "FAILED"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
