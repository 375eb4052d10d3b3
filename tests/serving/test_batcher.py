"""Questions that are computed together."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.batcher import Batcher


class Slow:
    """Doubles numbers once it may, and remembers what came together; refuses 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()

    def __call__(self, questions: list[int]) -> list[int | Exception]:
        self.batches.append(questions)
        assert self.may.wait(10)
        return [ValueError("13") if question == 13 else 2 * question for question in questions]


async def begun(slow: Slow, count: int = 1) -> None:
    while len(slow.batches) < count:
        await asyncio.sleep(0.001)


def test_an_idle_model_computes_at_once_and_what_comes_meanwhile_is_computed_together() -> None:
    slow = Slow()

    async def run() -> list[int]:
        batcher = Batcher(slow, 3, abs, 100)
        asked = [asyncio.create_task(batcher.ask(0))]
        await begun(slow)
        for number in range(1, 6):  # one after the other, as from clients of their own
            asked.append(asyncio.create_task(batcher.ask(number)))
            await asyncio.sleep(0.005)
        assert slow.batches == [[0]]
        slow.may.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10]
    assert slow.batches == [[0], [1, 2, 3], [4, 5]]


def test_one_question_that_fails_leaves_the_others_their_answers() -> None:
    slow = Slow()
    slow.may.set()

    async def run() -> list[int | BaseException]:
        batcher = Batcher(slow, 8, abs, 100)
        return await asyncio.gather(*(batcher.ask(number) for number in (1, 13, 2)), return_exceptions=True)

    one, failure, two = asyncio.run(run())
    assert (one, two) == (2, 4)
    assert isinstance(failure, ValueError)


def test_after_an_error_of_all_it_goes_on() -> None:
    def compute(questions: list[int]) -> list[int | Exception]:
        if 0 in questions:
            raise RuntimeError("no answer today")
        return list(questions)

    async def run() -> int:
        batcher = Batcher(compute, 8, abs, 100)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no answer today"):
                await batcher.ask(0)
        return await batcher.ask(1)

    assert asyncio.run(run()) == 1


def test_a_question_whose_asker_left_is_not_computed() -> None:
    slow = Slow()

    async def run() -> int:
        batcher = Batcher(slow, 8, abs, 100)
        first = asyncio.create_task(batcher.ask(1))
        await begun(slow)
        gone, last = asyncio.create_task(batcher.ask(2)), asyncio.create_task(batcher.ask(3))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()  # its batch computes already: the answer goes nowhere
        await asyncio.sleep(0)
        slow.may.set()
        return await last

    assert asyncio.run(run()) == 6
    assert slow.batches == [[1], [3]]


def test_it_says_for_how_long_a_batch_computes() -> None:
    slow = Slow()

    async def run() -> None:
        batcher = Batcher(slow, 8, abs, 100)
        assert batcher.running_s() is None
        asked = asyncio.create_task(batcher.ask(1))
        await begun(slow)
        await asyncio.sleep(0.05)
        running_s = batcher.running_s()
        assert running_s is not None
        assert 0.04 < running_s < 10
        slow.may.set()
        await asked
        await asyncio.sleep(0.01)
        assert batcher.running_s() is None

    asyncio.run(run())


def test_questions_that_are_large_together_are_computed_one_after_the_other() -> None:
    slow = Slow()
    slow.may.set()

    async def run() -> list[int]:
        batcher = Batcher(slow, 3, abs, 10)
        return await asyncio.gather(*(batcher.ask(number) for number in (4, 6, 1, 50, 2, 3, 4, 0)))

    assert asyncio.run(run()) == [8, 12, 2, 100, 4, 6, 8, 0]
    assert slow.batches == [[4, 6], [1], [50], [2, 3, 4], [0]]
