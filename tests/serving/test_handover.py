"""When a new ingress takes over from the one before it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

import pytest

from serving.handover import wait_for_llm

SILENCE_S, LOOK_S = 0.05, 0.001


def waited(answers: Iterator[bool | Exception], others: Iterator[bool], silence_s: float = SILENCE_S) -> float:
    """Return for how long it waits for an LLM that answers so."""

    async def holds_version() -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    started_s = time.monotonic()
    asyncio.run(wait_for_llm(holds_version, lambda: next(others), silence_s, LOOK_S))
    return time.monotonic() - started_s


def for_ever(value: bool | Exception) -> Iterator[bool | Exception]:
    while True:
        yield value


def yes(count: int) -> Iterator[bool]:
    """There is another ingress, for so many looks."""
    yield from [True] * count
    yield False


def test_alone_it_starts_at_once_however_the_llm_is() -> None:
    answers = iter([RuntimeError("it still loads")])
    waited(answers, yes(0))
    assert len(list(answers)) == 1, "it was not even asked"


def test_beside_another_it_starts_with_its_llm() -> None:
    answers = iter([False, RuntimeError("none at this moment"), False, True])
    waited(answers, yes(10), silence_s=60)
    assert not list(answers)


def test_while_the_llm_is_of_another_version_the_others_go_on_for_as_long_as_they_are_there() -> None:
    others = yes(100)
    assert waited(for_ever(False), others) > SILENCE_S
    assert not list(others), "the last of them went away"


def test_an_llm_that_says_nothing_is_not_waited_for_long(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ray.serve"):
        assert waited(for_ever(TimeoutError()), yes(10**6)) < 10
    assert "the LLM has said nothing for 0.05 s, the ingress starts without it: TimeoutError()" in caplog.text
