"""Plain tasks over blocks in Ray's memory: one call of a pure function each, where an execution of Ray Data takes longer than the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray import ObjectRef

from components.errors import ArtifactError

CPUS = 1.0  # of a task
RETRIES = 10  # of a task whose worker is lost: Ray's own 3 are few where machines come and go


def started(work: Callable[..., Any], *arguments: Any) -> ObjectRef:
    """Start a task; a reference among the arguments becomes what it stands for."""
    return _call.remote(work, *arguments)


def started_in_parts(work: Callable[..., Sequence[Any]], parts: int, *arguments: Any) -> list[ObjectRef]:
    """Start a task that returns so many parts; each can be asked for without the others."""
    if parts == 1:  # Ray would take a list of one for one part that is a list
        return [started(_first, work, *arguments)]
    return _call.options(num_returns=parts).remote(work, *arguments)  # pyright: ignore[reportReturnType]


def results(work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Run the work on each set of arguments and yield what comes back, in order; the driver holds one at a time."""
    waiting = [started(work, *each) for each in arguments]
    while waiting:
        yield ray.get(waiting.pop(0))


@ray.remote(num_cpus=CPUS, max_retries=RETRIES)
def _call(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


def _first(work: Callable[..., Sequence[Any]], *arguments: Any) -> Any:
    return work(*arguments)[0]


def require_rows(uri: str, rows: int) -> None:
    """Raise ArtifactError where the Parquet files below `uri` don't hold so many rows."""
    from components.features.tables import count_rows  # imports torch: seconds for the tasks' processes, which import this file

    # What tasks say they wrote may lie on another machine's disk, or be lost on the way.
    if (found := count_rows(uri)) != rows:
        raise ArtifactError(f"expected {rows:,} rows in the Parquet files below {uri}, found {found:,}: some were not written there")
