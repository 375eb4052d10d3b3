"""The LLM's process, without Ray around it: what it computes together, what it leaves out, and when it counts as ill."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.features.visit import Candidate, Visit
from serving.arguments import Arguments
from serving.deployments import Llm
from serving.guarded import OTHER_VERSION
from serving.metrics import LlmMetrics
from serving.model import resolve

VISITS = [Visit(f"u{number % 16}", {}, (("i1", 5.0),), 1, (Candidate("i2"), Candidate(f"i{number % 24}"))) for number in range(8)]
VERSION = "seed-0"


class Recording(LlmMetrics):
    """Keeps what is counted, for tests to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def computed(self, requests: int, candidates: int, compute_ms: float) -> None:
        super().computed(requests, candidates, compute_ms)
        self.batches.append(requests)


@pytest.fixture
def llm(ensemble: Path, monkeypatch: pytest.MonkeyPatch) -> Llm:
    monkeypatch.setattr("serving.deployments.LlmMetrics", Recording)
    return Llm(resolve(str(ensemble)), Arguments(model=str(ensemble), health_check_timeout_s=1.0))


class Gate:
    """Stands before a method: calls wait until it is opened, and are counted."""

    def __init__(self, method: Any) -> None:
        self._method, self.open, self.calls = method, threading.Event(), 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        assert self.open.wait(30)
        return self._method(*arguments)


@pytest.fixture
def slow(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(llm._arm.score)
    monkeypatch.setattr(llm._arm, "score", gate)
    yield gate
    gate.open.set()


async def begun(slow: Gate) -> None:
    while not slow.calls:
        await asyncio.sleep(0.005)


def test_clients_that_ask_again_and_again_are_answered_together(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> None:
    score = llm._arm.score

    def takes_a_while(visits: list[Visit]) -> Any:
        time.sleep(0.02)
        return score(visits)

    monkeypatch.setattr(llm._arm, "score", takes_a_while)

    async def client(number: int) -> None:
        await asyncio.sleep(0.003 * number)
        for _ in range(4):
            await llm(VISITS[number], VERSION, 30.0)

    async def run() -> None:
        await asyncio.gather(*map(client, range(8)))

    asyncio.run(run())
    batches = llm._metrics.batches  # pyright: ignore[reportAttributeAccessIssue]
    assert sum(batches) == 32
    assert np.mean(batches) > 2


def test_together_and_alone_the_answers_are_the_same(llm: Llm) -> None:
    async def together() -> list[Any]:
        return await asyncio.gather(*(llm(visit, VERSION, 30.0) for visit in VISITS))

    for visit, found in zip(VISITS, asyncio.run(together()), strict=True):
        np.testing.assert_allclose(found, llm._arm.score([visit])[0], atol=1e-6)


def test_a_question_for_another_model_is_not_answered(llm: Llm) -> None:
    assert asyncio.run(llm(VISITS[0], "older", 30.0)) == OTHER_VERSION


def test_what_nobody_waits_for_is_not_computed(llm: Llm, slow: Gate) -> None:
    async def run() -> list[Any]:
        asked = [asyncio.create_task(llm(VISITS[0], VERSION, 30.0))]
        await begun(slow)
        asked += [asyncio.create_task(llm(VISITS[1], VERSION, timeout_s)) for timeout_s in (0.01, 30.0)]
        await asyncio.sleep(0.05)
        slow.open.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    _, late, in_time = asyncio.run(run())
    assert slow.calls == 2
    assert isinstance(late, TimeoutError)
    assert len(in_time) == 2
    assert llm._metrics.batches == [1, 1]  # pyright: ignore[reportAttributeAccessIssue]


MANY = replace(VISITS[0], candidates=tuple(Candidate(f"i{row % 24}", {"title": f"Story {row}"}) for row in range(300)))


def test_many_candidates_are_answered_in_parts_as_they_are_together(llm: Llm) -> None:
    found = asyncio.run(llm(MANY, VERSION, 60.0))
    np.testing.assert_allclose(found, llm._arm.score([MANY])[0], atol=1e-6)
    assert llm._metrics.batches == [1, 1], "4096 tokens are taken for 204 candidates"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_parts_that_are_left_are_not_computed_for_one_who_left(llm: Llm, slow: Gate) -> None:
    async def run() -> None:
        asked = asyncio.create_task(llm(MANY, VERSION, 60.0))
        await begun(slow)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        slow.open.set()
        assert len(await llm(VISITS[1], VERSION, 60.0)) == 2

    asyncio.run(run())
    assert slow.calls == 2, "the part that was begun, and who came next"


def test_a_batch_that_never_ends_makes_the_process_ill(llm: Llm, slow: Gate) -> None:
    async def run() -> None:
        asked = asyncio.create_task(llm(VISITS[0], VERSION, 30.0))
        await begun(slow)
        await llm.check_health()  # busy is not ill
        assert slow.calls == 1, "and is not made busier"
        await asyncio.sleep(1.1)
        with pytest.raises(RuntimeError, match="the LLM computes the same questions for 1 s"):
            await llm.check_health()
        slow.open.set()
        await asked
        await asyncio.sleep(0.01)
        await llm.check_health()

    asyncio.run(run())


def test_a_model_that_gives_no_numbers_is_ill(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(llm.check_health())
    monkeypatch.setattr(llm._arm, "score", lambda visits: [np.array([np.nan])])
    with pytest.raises(RuntimeError, match="no number"):
        asyncio.run(llm.check_health())


def test_without_a_gpu_of_its_own_it_computes_on_the_cpu(ensemble: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert Llm(resolve(str(ensemble)), Arguments(model=str(ensemble)))._arm._device == "cpu"
