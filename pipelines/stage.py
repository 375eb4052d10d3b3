"""What a stage gets, and where it writes its one artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components import artifacts, storage
from pipelines.progress import Progress

SCRATCH = ".scratch"  # beside the artifacts
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

    @property
    def scratch(self) -> str:
        """The URI where a stage leaves what it goes on from when it is broken off; gone once its artifact stands."""
        return artifacts.join(self.output, SCRATCH, self.fingerprint)

    def clear_scratch(self) -> None:
        """Remove what the stage left to go on from."""
        clear_scratch(self.output, [self.fingerprint])

    def artifact(self, stage: str) -> str:
        """Return the URI of an earlier stage's artifact."""
        return artifacts.join(self.output, stage)


def clear_scratch(output: str, fingerprints: Sequence[str]) -> None:
    """Remove what stages of these fingerprints left to go on from; what others left can still be gone on with."""
    fs, folder = storage.filesystem(artifacts.join(output, SCRATCH))
    if not fs.exists(folder):
        return
    for fingerprint in fingerprints:
        if fs.exists(artifacts.join(folder, fingerprint)):
            fs.rm(artifacts.join(folder, fingerprint), recursive=True)
    if fs.exists(folder) and not fs.ls(folder):
        fs.rmdir(folder)
