"""Asking the CRM: in this process, or in a deployment of its own with this process's as the answer to every trouble."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from components.features.visit import Resolved
from components.joint.arms import CrmArm, Scores
from serving.guarded import Guarded, UnansweredError

AT_ONCE = 1_000  # items that are scored without leaving the event loop
DESCRIBED_AT_ONCE = 20  # candidates whose descriptions are read without leaving the event loop


class CrmClient:
    """Scores visits."""

    def __init__(self, arm: CrmArm, deployment: Guarded | None) -> None:
        """`deployment` is asked where there is one."""
        self._arm, self._deployment = arm, deployment

    async def __call__(self, visit: Resolved, until_s: float) -> tuple[Scores, str | None]:
        """Return what the CRM says of each candidate, and `crm_` with the cause where its deployment did not answer `until_s`."""
        if self._deployment is None:
            return await self._here(visit), None
        try:
            return await self._deployment.ask(visit, until_s - time.monotonic(), lambda found: _scores(found, visit)), None
        except UnansweredError as error:
            return await self._here(visit), f"crm_{error.kind}"

    async def _here(self, visit: Resolved) -> Scores:
        if len(visit.item_rows) > AT_ONCE or len(visit.described) > DESCRIBED_AT_ONCE:  # other requests go on meanwhile
            return await asyncio.to_thread(self._arm.score, visit)
        return self._arm.score(visit)


def _scores(found: Any, visit: Resolved) -> Scores:
    if not isinstance(found, dict) or any(len(values) != len(visit.item_rows) for values in found.values()):
        raise UnansweredError("invalid_output")
    return found
