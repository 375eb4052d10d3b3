"""The caller of the LLM against stand-ins for its handle: every way to fail has a name, and the breaker learns of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from components.features.visit import Candidate, Visit
from serving.breaker import CircuitBreaker
from serving.guarded import OTHER_VERSION, Guarded, UnansweredError, to_deployment
from serving.llm_client import LlmClient
from serving.router import LlmFailureError

VISIT = Visit("u", {}, (), 0, (Candidate("a"), Candidate("b")))
PATIENCE_S = 0.06
NEVER = object()


class Response:
    """What a handle returns: it can be awaited and cancelled."""

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        self._answer, self.cancelled = answer, False

    def __await__(self) -> Any:
        return self._answer().__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment that answers as it is told, once for each call."""

    def __init__(self, *answers: object) -> None:
        """An exception is raised, NEVER never comes, anything else is the answer."""
        self._answers, self.asked, self.responses = list(answers), [], []

    def remote(self, visit: Visit, version: str, timeout_s: float) -> Response:
        self.asked.append((visit, version, timeout_s))
        answer = self._answers.pop(0)

        async def come() -> object:
            if answer is NEVER:
                await asyncio.sleep(60)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        self.responses.append(Response(come))
        return self.responses[-1]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Hurried:
    """A deployment whose answers take longer than anybody waits, while the clock goes on."""

    def __init__(self, clock: Clock, waited_s: float) -> None:
        self._clock, self._waited_s, self.answers = clock, waited_s, False

    def remote(self, visit: Visit, version: str, timeout_s: float) -> Response:
        async def come() -> object:
            if self.answers:
                return [0.5, 0.5]
            self._clock.now_s += self._waited_s
            raise TimeoutError

        return Response(come)


class Away:
    """A deployment that can't even be asked."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def remote(self, visit: Visit, version: str, timeout_s: float) -> Response:
        raise self._error


def task_error(cause: BaseException) -> RayTaskError:
    return RayTaskError("Llm", "traceback", cause).as_instanceof_cause()


def client(handle: Any, failures: int = 1, clock: Clock | None = None) -> tuple[LlmClient, list[str]]:
    causes: list[str] = []
    clock = clock or Clock()
    breaker = CircuitBreaker(failures, 5.0, clock)
    return LlmClient(Guarded("the LLM", to_deployment(handle, "v1"), breaker, PATIENCE_S, print, clock), causes.append), causes


def ask(one: LlmClient, timeout_s: float = 1.0) -> np.ndarray | str:
    """Return the answer, or the cause of there being none."""
    try:
        return asyncio.run(one(VISIT, timeout_s))
    except LlmFailureError as failure:
        return failure.cause


def test_the_answer_comes_as_doubles_in_the_order_of_the_candidates() -> None:
    handle = Handle(np.array([0.25, 0.5], np.float32))
    one, causes = client(handle)
    found = ask(one, 0.7)
    assert isinstance(found, np.ndarray)
    assert (found.tolist(), found.dtype, causes) == ([0.25, 0.5], np.float64, [])
    assert handle.asked == [(VISIT, "v1", 0.7)]
    assert one.state == "ready"


@pytest.mark.parametrize(
    ("error", "cause", "state"),
    [
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), "llm_overloaded", "unknown"),
        (task_error(ValueError("no")), "llm_error", "unavailable"),
        (task_error(KeyError("no")), "llm_error", "unavailable"),
        (task_error(asyncio.CancelledError()), "llm_error", "unavailable"),
        (task_error(TimeoutError("too late")), "llm_timeout", "unavailable"),
        (GetTimeoutError("too late"), "llm_timeout", "unavailable"),
        (RayActorError(), "llm_unavailable", "unavailable"),
        (TaskCancelledError(), "llm_unavailable", "unavailable"),
        (DeploymentUnavailableError.__new__(DeploymentUnavailableError), "llm_unavailable", "unavailable"),
        (RayServeException("shut down"), "llm_unavailable", "unavailable"),
        (RuntimeError("the event loop of another process"), "llm_error", "unavailable"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_failure_has_its_cause_and_counts_where_the_llm_is_at_fault(error: Exception, cause: str, state: str) -> None:
    one, causes = client(Handle(error))
    assert ask(one) == cause
    assert (one.state, causes) == (state, [cause])


@pytest.mark.parametrize(
    ("error", "cause"), [(RayServeException("shut down"), "llm_unavailable"), (RuntimeError("cannot be asked"), "llm_error")]
)
def test_a_handle_that_cannot_be_called_is_a_failure_like_any_other(error: Exception, cause: str) -> None:
    clock = Clock()
    one, causes = client(Away(error), clock=clock)
    assert ask(one) == cause
    clock.now_s = 5.0
    assert ask(one) == cause, "the probe"
    clock.now_s = 10.0
    assert (one.state, ask(one), causes) == ("recovering", cause, [cause] * 3)


@pytest.mark.parametrize(
    "answer", [[0.5], [[0.5, 0.5]], 0.5, [0.1, 0.2, 0.3], [[0.1], [0.2, 0.3]], ["yes", "no"], {"p": 1}, [math.nan, math.nan]]
)
def test_an_answer_of_another_shape_is_invalid_and_counts_against_the_llm(answer: object) -> None:
    one, causes = client(Handle(answer))
    assert ask(one) == "llm_invalid_output"
    assert (one.state, causes) == ("unavailable", ["llm_invalid_output"])


def test_a_timeout_counts_from_the_patience_on_and_cancels_the_question() -> None:
    handle = Handle(NEVER, NEVER)
    one, causes = client(handle)
    assert ask(one, PATIENCE_S / 2) == "llm_timeout"
    assert one.state == "unknown"
    assert ask(one, PATIENCE_S) == "llm_timeout"
    assert (one.state, causes) == ("unavailable", ["llm_timeout"] * 2)
    assert [response.cancelled for response in handle.responses] == [True, True]


def test_clients_in_a_hurry_open_the_circuit_once_there_was_silence_for_as_long_as_the_patience() -> None:
    clock = Clock()
    one, _ = client(Hurried(clock, PATIENCE_S * 0.4), failures=2, clock=clock)
    states = []
    for _ in range(4):
        assert ask(one, PATIENCE_S * 0.4) == "llm_timeout"
        states.append(one.state)
        clock.now_s += 1.0  # nobody asks: that is no silence
    assert states == ["unknown", "unknown", "unknown", "unavailable"]


def test_an_answer_ends_the_silence() -> None:
    clock = Clock()
    handle = Hurried(clock, PATIENCE_S * 0.4)
    one, _ = client(handle, clock=clock)
    for _ in range(5):
        assert [ask(one, PATIENCE_S * 0.4) for _ in range(2)] == ["llm_timeout"] * 2
        handle.answers = True
        assert np.array_equal(ask(one), [0.5, 0.5])
        handle.answers = False
    assert one.state == "ready"


@pytest.mark.parametrize("probing", [False, True])
def test_an_llm_of_another_version_is_not_mixed_in_and_not_to_blame(probing: bool) -> None:
    clock = Clock()
    one, causes = client(Handle(*([RayActorError()] if probing else []), OTHER_VERSION, [0.5, 0.5]), clock=clock)
    if probing:
        ask(one)
        clock.now_s = 5.0
    assert ask(one) == causes[-1] == "llm_other_version"
    assert one.state == ("recovering" if probing else "unknown")
    assert np.array_equal(ask(one), [0.5, 0.5])


@pytest.mark.parametrize("timeout_s", [0.0, -3.0])
def test_without_time_the_llm_is_not_asked(timeout_s: float) -> None:
    handle = Handle()
    one, causes = client(handle)
    assert ask(one, timeout_s) == "deadline"
    assert (handle.asked, one.state, causes) == ([], "unknown", ["deadline"])


def test_behind_an_open_circuit_nobody_asks() -> None:
    handle = Handle(RayActorError(), RayActorError())
    one, causes = client(handle, failures=2)
    assert [ask(one) for _ in range(4)] == ["llm_unavailable", "llm_unavailable", "circuit_open", "circuit_open"]
    assert (len(handle.asked), causes) == (2, ["llm_unavailable"] * 2 + ["circuit_open"] * 2)


def test_a_probe_after_the_pause_brings_the_llm_back() -> None:
    clock = Clock()
    one, _ = client(Handle(RayActorError(), RayActorError(), [0.5, 0.5]), clock=clock)
    assert ask(one) == "llm_unavailable"
    clock.now_s = 5.0
    assert one.state == "recovering"
    assert ask(one) == "llm_unavailable"
    assert (one.state, ask(one)) == ("unavailable", "circuit_open")
    clock.now_s = 10.0
    assert np.array_equal(ask(one), [0.5, 0.5])
    assert one.state == "ready"


def test_others_get_no_answer_while_the_probe_is_out() -> None:
    clock = Clock()
    one, _ = client(Handle(RayActorError(), NEVER), clock=clock)
    assert ask(one) == "llm_unavailable"
    clock.now_s = 5.0

    async def both() -> list[Any]:
        found = await asyncio.gather(one(VISIT, PATIENCE_S / 2), one(VISIT, PATIENCE_S / 2), return_exceptions=True)
        assert one.state == "recovering", "it has time left, though its client has none"
        await asyncio.sleep(PATIENCE_S)
        return found

    assert [str(error) for error in asyncio.run(both())] == ["llm_timeout", "circuit_open"]
    assert one.state == "unavailable"


class Steady:
    """A deployment that takes its time, and answers."""

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s

    def remote(self, visit: Visit, version: str, timeout_s: float) -> asyncio.Future[Any]:
        return asyncio.ensure_future(asyncio.sleep(self._takes_s, [0.5, 0.5]))


def opened(handle: Any) -> tuple[LlmClient, Clock]:
    """Return a client whose circuit an earlier process of the LLM opened, after the pause."""
    clock = Clock()
    handles = [Handle(RayActorError()), handle]

    class Replaced:
        def remote(self, *arguments: Any) -> Any:
            return (handles.pop(0) if len(handles) > 1 else handles[0]).remote(*arguments)

    one, _ = client(Replaced(), clock=clock)
    assert ask(one) == "llm_unavailable"
    clock.now_s = 5.0
    return one, clock


def test_a_client_in_a_hurry_does_not_keep_a_well_llm_away_from_the_others() -> None:
    one, _ = opened(Steady(PATIENCE_S / 2))

    async def run() -> None:
        with pytest.raises(LlmFailureError, match="llm_timeout"):
            await one(VISIT, PATIENCE_S / 8)
        await asyncio.sleep(PATIENCE_S)
        assert one.state == "ready"
        assert np.array_equal(await one(VISIT, 1.0), [0.5, 0.5])

    asyncio.run(run())


def test_a_patient_client_does_not_keep_the_others_from_trying() -> None:
    one, clock = opened(Steady(PATIENCE_S * 6))

    async def run() -> None:
        patient = asyncio.create_task(one(VISIT, 60.0))
        await asyncio.sleep(PATIENCE_S * 3)
        assert one.state == "unavailable"
        clock.now_s = 10.0
        with pytest.raises(LlmFailureError, match="llm_timeout"):
            await one(VISIT, PATIENCE_S)
        assert np.array_equal(await patient, [0.5, 0.5])
        assert one.state == "ready"

    asyncio.run(run())


def test_whatever_an_answer_does_to_its_reader_it_is_none_and_the_next_is_asked_for() -> None:
    clock = Clock()
    one = Guarded("the LLM", to_deployment(cast(Any, Handle(1, 2, 3)), "v1"), CircuitBreaker(1, 5.0, clock), PATIENCE_S, print, clock)

    def read(found: int) -> int:
        return found if found == 3 else 1 // 0

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(UnansweredError, match="invalid_output"):
                await one.ask(VISIT, 1.0, read)
            clock.now_s += 5.0
        assert await one.ask(VISIT, 1.0, read) == 3

    asyncio.run(run())


def test_the_circuit_and_what_opened_it_are_in_the_log_and_told(caplog: pytest.LogCaptureFixture) -> None:
    clock, states = Clock(), list[str]()
    handle = Handle(RayActorError(), RuntimeError("line\nline"), [0.5])
    one = Guarded("the LLM", to_deployment(cast(Any, handle), "v1"), CircuitBreaker(1, 5.0, clock), PATIENCE_S, states.append, clock)

    async def run() -> None:
        for _ in range(3):
            with contextlib.suppress(UnansweredError):
                await one.ask(VISIT, 1.0, list)
            clock.now_s += 5.0

    with caplog.at_level(logging.WARNING, "ray.serve"):
        asyncio.run(run())
    assert [line.split(", ")[0] for line in caplog.messages] == [
        "no answer of the LLM: unavailable",
        "the circuit before the LLM is open",
        "no answer of the LLM: error",
        "the circuit before the LLM is closed",
    ]
    assert caplog.messages[2].endswith(r"RuntimeError('line\nline')")
    assert states == ["closed", "open", "half_open", "open", "half_open", "closed"]


@pytest.mark.parametrize("probing", [False, True])
def test_a_client_that_leaves_cancels_the_question_and_frees_the_probe(probing: bool) -> None:
    clock = Clock()
    handle = Handle(*([RayActorError()] if probing else []), NEVER, [0.5, 0.5])
    one, causes = client(handle, clock=clock)
    if probing:
        assert ask(one) == "llm_unavailable"
        clock.now_s = 5.0

    async def leave() -> None:
        asked = asyncio.create_task(one(VISIT, 10.0))
        await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    before = list(causes)
    asyncio.run(leave())
    assert handle.responses[-1].cancelled
    assert (one.state, causes) == ("recovering" if probing else "unknown", before)
    assert np.array_equal(ask(one), [0.5, 0.5])
