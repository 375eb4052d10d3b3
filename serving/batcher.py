"""Questions that come while others are computed wait, and are computed together next; nobody waits for an idle model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """One batch at a time, computed in a thread, so that new questions and health checks are heard. For one event loop."""

    def __init__(
        self, compute: Callable[[list[Question]], list[Answer | Exception]], most: int, size: Callable[[Question], int], room: int
    ) -> None:
        """`most` questions are computed together, and only one where their sizes exceed `room`."""
        self._compute, self._most, self._size, self._room = compute, most, size, room
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._started_s: float | None = None

    async def ask(self, question: Question) -> Answer:
        """Return the answer, or raise what stands in its place; who is cancelled leaves no work behind."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await answer

    def running_s(self) -> float | None:
        """Return for how long the present batch computes, None where none does."""
        return None if self._started_s is None else time.monotonic() - self._started_s

    async def _work(self) -> None:
        try:
            while batch := self._next():
                self._started_s = time.monotonic()
                found = await self._computed([question for question, _ in batch])
                for (_, answer), one in zip(batch, found, strict=True):
                    if answer.done():  # nobody waits any longer
                        continue
                    if isinstance(one, Exception):
                        answer.set_exception(one)
                    else:
                        answer.set_result(one)
        finally:
            self._worker = self._started_s = None

    def _next(self) -> list[tuple[Question, asyncio.Future[Answer]]]:
        batch: list[tuple[Question, asyncio.Future[Answer]]] = []
        room = self._room
        while self._waiting and len(batch) < self._most:
            question, answer = self._waiting[0]
            if not answer.done():
                room -= self._size(question)
                if batch and room < 0:
                    break
                batch.append((question, answer))
            self._waiting.popleft()
        return batch

    async def _computed(self, questions: list[Question]) -> list[Answer | Exception]:
        try:
            return await asyncio.to_thread(self._compute, questions)
        except Exception as error:
            return [error] * len(questions)
