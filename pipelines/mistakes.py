"""Which errors of a training worker end the run. Ray Train's controller imports this file, so it imports little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback

from components.errors import TandemError

# What another attempt would meet again. Lost workers and connections and the like are none of these.
MISTAKES = (TandemError, AssertionError, ArithmeticError, AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)


class EndOnMistake(UserCallback):
    """Ends a run at once when a worker's error would only come again: Ray Train retries what a worker raises, not what this raises."""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:  # noqa: ARG002 - Ray's names
        for error in worker_exceptions.values():
            if isinstance(error, MISTAKES):
                raise error
