"""What a stage gets, and where it writes its one artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components import artifacts
from pipelines.progress import Progress

OnMetrics = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class StageContext:
    """The surroundings of one stage's run."""

    output: str  # URI of the run's output folder, where earlier artifacts stand
    folder: str  # URI of the folder that this stage writes
    fingerprint: str  # hash of all that the artifact depends on; names what a stage leaves behind when it is broken off
    progress: Progress
    on_metrics: OnMetrics  # figures of a step, for whoever follows the run
    facts: dict[str, Any]  # counts and figures for later stages and people; kept in the artifact's manifest

    def artifact(self, stage: str) -> str:
        """Return the URI of an earlier stage's artifact."""
        return artifacts.join(self.output, stage)
