"""The endpoint's HTTP side in a thread of the tests' own process: real routes and real models, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from starlette.testclient import TestClient

from components.features.visit import Visit
from components.joint.arms import LlmArm
from serving.access import Access
from serving.arguments import Arguments
from serving.endpoints import build_http
from serving.guarded import OTHER_VERSION
from serving.model import resolve
from serving.service import Service

START_S = 30.0
MAX_BATCH_TOKENS = 4096


@dataclass
class LlmStandIn:
    """Answers as the LLM's handle does, in this process; it can be told to fail or to be slow."""

    arm: LlmArm
    version: str = ""
    fails: bool = False
    delay_s: float = 0.0
    changes: Callable[[NDArray[np.float64]], Any] = np.asarray  # what comes in the place of the model's answer
    asked: list[Visit] = field(default_factory=list)

    def remote(self, visit: Visit, version: str, timeout_s: float) -> StandInResponse:
        del timeout_s
        self.asked.append(visit)
        return StandInResponse(asyncio.ensure_future(self._answer(visit, version)))

    async def _answer(self, visit: Visit, version: str) -> NDArray[np.float64] | str:
        fails = self.fails
        await asyncio.sleep(self.delay_s)
        if fails:
            raise RayActorError
        if version != self.version:
            return OTHER_VERSION
        return self.changes((await asyncio.to_thread(self.arm.score, [visit]))[0])


@dataclass(frozen=True)
class StandInResponse:
    """What `.remote` of a handle returns."""

    task: asyncio.Task[Any]

    def __await__(self) -> Any:
        return self.task.__await__()

    def cancel(self) -> None:
        self.task.cancel()


@dataclass(frozen=True)
class Running:
    """An endpoint that answers."""

    url: str
    service: Service
    llm: LlmStandIn

    def heal(self) -> None:
        """Let the LLM answer at once again, and the circuit before it be closed."""
        self.llm.fails, self.llm.delay_s, self.llm.changes = False, 0.0, np.asarray
        self.service.llm.breaker.succeeded()
        self.llm.asked.clear()


@dataclass(frozen=True)
class Called(Running):
    """An endpoint that is called in this process, without a port."""

    client: TestClient
    app: FastAPI

    def post(self, path: str, body: Any) -> Any:
        """Return the answer of a request that succeeds."""
        response = self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()


def build(ensemble: Path, events: Path | str, access: Access, **settings: Any) -> tuple[FastAPI, Service, LlmStandIn]:
    """Return the application on the artifact `ensemble/`, with its parts; `events` is the path of a file or the address of a Redis."""
    events = events if isinstance(events, str) else f"sqlite:///{events}"
    arguments = Arguments(model=str(ensemble), events=events, **settings)
    model = resolve(str(ensemble))
    llm = LlmStandIn(LlmArm.load(str(ensemble), MAX_BATCH_TOKENS), model.version)
    service = Service(model, arguments, cast(DeploymentHandle, llm), None)
    return build_http(service, arguments, access), service, llm


@contextlib.contextmanager
def called(
    ensemble: Path, events: Path | str, key: bytes | None = None, docs: bool = True, own_names: bool = False, **settings: Any
) -> Iterator[Called]:
    """Answer calls from this process; an error that nobody handled is raised where the call was made."""
    app, service, llm = build(ensemble, events, Access(key, docs, own_names), **settings)
    with TestClient(app, follow_redirects=False) as client:
        yield Called("http://testserver", service, llm, client, app)


@contextlib.contextmanager
def running(ensemble: Path, events: Path, key: bytes | None = None, **settings: Any) -> Iterator[Running]:
    """Serve the artifact `ensemble/` on a free port of loopback; events go to a new file at `events`."""
    app, service, llm = build(ensemble, events, Access(key, docs=True), **settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            _wait_until(lambda: server.started)
            yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", service, llm)
        finally:
            server.should_exit = True
            thread.join(START_S)


def _wait_until(true: Any) -> None:
    until_s = time.monotonic() + START_S
    while not true():
        assert time.monotonic() < until_s, "the endpoint did not start"
        time.sleep(0.02)
