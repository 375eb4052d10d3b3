"""The CRM in a deployment of its own, and in this process where that one is in trouble."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from components.features.visit import Candidate, Resolved, Visit
from components.joint.arms import CrmArm, Scores
from serving.breaker import CircuitBreaker
from serving.crm_client import CrmClient
from serving.deployments import Crm
from serving.guarded import Guarded
from serving.model import resolve

VISIT = Visit("u1", {}, (("i1", 5.0),), 1, tuple(Candidate(f"i{row}") for row in range(5)))


class Response:
    """What a handle returns."""

    def __init__(self, answer: Any) -> None:
        self._answer, self.cancelled = answer, False

    def __await__(self) -> Any:
        return self._come().__await__()

    async def _come(self) -> Any:
        if self._answer is None:
            await asyncio.sleep(60)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture(scope="module")
def arm(ensemble: Path) -> CrmArm:
    return CrmArm.load(str(ensemble))


@pytest.fixture(scope="module")
def expected(arm: CrmArm) -> Scores:
    return arm.score(arm.resolver.resolve(VISIT))


def ask(arm: CrmArm, *answers: Any) -> list[tuple[Scores, str | None]]:
    """Ask once for each answer; None never comes, and is waited for longer than patience lasts."""
    left = list(answers)
    client = CrmClient(arm, Guarded("the CRM", lambda visit, timeout_s: Response(left.pop(0)), CircuitBreaker(2, 60.0), 0.02, print))

    async def run() -> list[tuple[Scores, str | None]]:
        visit = arm.resolver.resolve(VISIT)
        return [await client(visit, time.monotonic() + (0.1 if answer is None else 60)) for answer in answers]

    return asyncio.run(run())


def test_the_deployments_answer_is_the_answer(arm: CrmArm, expected: Scores) -> None:
    marked = {**expected, "p_crm": np.full(5, 0.25)}
    ((rows, cause),) = ask(arm, marked)
    assert (rows["p_crm"].tolist(), cause) == ([0.25] * 5, None)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (None, "crm_timeout"),
        (RayActorError(), "crm_unavailable"),
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), "crm_overloaded"),
        (ValueError("no"), "crm_error"),
        ("another version", "crm_other_version"),
        ({"p_crm": np.full(4, 0.5)}, "crm_invalid_output"),
        ("yes", "crm_invalid_output"),
    ],
    ids=str,
)
def test_whatever_happens_to_it_this_process_answers_and_says_why(arm: CrmArm, expected: Scores, answer: Any, cause: str) -> None:
    ((rows, found),) = ask(arm, answer)
    assert found == cause
    np.testing.assert_allclose(rows["p_crm"], expected["p_crm"], atol=1e-6)


def test_one_that_is_dead_is_soon_not_waited_for(arm: CrmArm) -> None:
    assert [cause for _, cause in ask(arm, *[None] * 4)] == ["crm_timeout"] * 2 + ["crm_circuit_open"] * 2


def test_the_deployment_answers_for_its_own_version_alone(arm: CrmArm, ensemble: Path, expected: Scores) -> None:
    crm, visit = Crm(resolve(str(ensemble)), 1), arm.resolver.resolve(VISIT)
    assert isinstance(visit, Resolved)
    found = crm(visit, "seed-0", 1.0)
    assert isinstance(found, dict)
    np.testing.assert_allclose(found["p_crm"], expected["p_crm"], atol=1e-6)
    assert crm(visit, "seed-1", 1.0) == "another version"
