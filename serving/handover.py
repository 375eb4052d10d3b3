"""A new ingress leaves the answers to the one before it until the LLM of its own version is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ray import serve
from ray.serve.handle import DeploymentHandle

LOGGER = logging.getLogger("ray.serve")
SILENCE_S = 60.0  # after which an LLM that says nothing is not waited for
LOOK_S = 0.25  # between two questions
ANSWER_S = 5.0  # within which one is answered


async def wait_for_llm(
    holds_version: Callable[[], Awaitable[bool]], others_answer: Callable[[], bool], silence_s: float = SILENCE_S, look_s: float = LOOK_S
) -> None:
    """Return once the LLM holds this version, or nobody gains by waiting.

    Serve replaces ingress and LLM each on its own. While an earlier ingress answers, and the LLM of its version with it, they do
    so better than this one could: for as long as the new LLM loads, and for good where it can't. Without another ingress, at the
    first start or after a crash, nothing is waited for.
    """
    until_s = time.monotonic() + silence_s
    while await asyncio.to_thread(others_answer):
        try:
            if await asyncio.wait_for(holds_version(), ANSWER_S):
                return
            until_s = time.monotonic() + silence_s
        except Exception as error:  # whatever keeps an LLM from answering
            if time.monotonic() > until_s:
                LOGGER.warning("the LLM has said nothing for %g s, the ingress starts without it: %r", silence_s, error)
                return
        await asyncio.sleep(look_s)


def asking(llm: DeploymentHandle, version: str) -> Callable[[], Awaitable[bool]]:
    """Return the question whether the LLM holds a version of the model."""

    async def holds_version() -> bool:
        return await llm.holds.remote(version)

    return holds_version


def others_answer() -> bool:
    """Tell whether another process of this deployment is in service, as far as Serve tells."""
    here = serve.get_replica_context()
    try:
        states = serve.status().applications[here.app_name].deployments[here.deployment].replica_states
    except Exception:  # as after a crash of Serve's own controller
        LOGGER.exception("Serve does not say who answers")
        return False
    return states.get("RUNNING", 0) > 0  # pyright: ignore[reportCallIssue, reportArgumentType] - keys are plain texts
