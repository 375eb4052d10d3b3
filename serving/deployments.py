"""What Ray Serve runs: the ingress with the CRM in its own process, and the LLM, which answers many requests at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from components.features.visit import Candidate, Resolved, Visit
from components.joint.arms import CrmArm, LlmArm, Scores
from serving.access import access, require_shared_events
from serving.arguments import Arguments
from serving.batcher import Batcher
from serving.endpoints import build_http
from serving.guarded import OTHER_VERSION
from serving.handover import asking, others_answer, wait_for_llm
from serving.metrics import LlmMetrics
from serving.model import Model
from serving.service import Service

PROBE_S = 10.0  # within which the LLM answers one question when it is healthy
CANDIDATE_TOKENS = 20  # about: so many candidates as fill llm_max_batch_tokens are computed without a look at who still waits


@dataclass(frozen=True)
class Question:
    """A visit, or a part of its candidates, that waits for the LLM."""

    visit: Visit
    until_s: float  # on time.monotonic's clock of this process; nobody waits for the answer any longer


class Llm:
    """The LLM: questions of concurrent requests are answered together, each user's history read once."""

    def __init__(self, model: Model, arguments: Arguments) -> None:
        torch.set_num_threads(arguments.llm_threads)
        device = "cuda" if arguments.llm_gpus else "cpu"
        folder = model.local()
        self._arm = LlmArm.load(folder, arguments.llm_max_batch_tokens, device, arguments.llm_cache_mib << 20)
        self._probe = Visit(None, {}, (), 0, (Candidate(self._arm.first_item),))
        self._arm.score([self._probe])
        self._version = model.version
        self._metrics = LlmMetrics()
        self._part = max(1, arguments.llm_max_batch_tokens // CANDIDATE_TOKENS)  # candidates
        self._batches = Batcher(self._score, arguments.llm_max_batch_requests, lambda part: len(part.visit.candidates), self._part)
        self._patience_s = arguments.health_check_timeout_s

    async def __call__(self, visit: Visit, version: str, timeout_s: float) -> NDArray[np.float64] | str:
        """Return the probability of each candidate, OTHER_VERSION where another model was meant.

        What would come after `timeout_s` is not computed. Serve replaces ingress and LLM each on its own, so during a
        rollout either may meet the other's older version.
        """
        if version != self._version:
            return OTHER_VERSION
        until_s, candidates = time.monotonic() + timeout_s, visit.candidates
        parts = [candidates[start : start + self._part] for start in range(0, len(candidates), self._part)]
        asked = [self._batches.ask(Question(replace(visit, candidates=part), until_s)) for part in parts]
        return np.concatenate(await asyncio.gather(*asked))

    async def holds(self, version: str) -> bool:
        """Tell whether this is the LLM of that version."""
        return version == self._version

    def _score(self, questions: list[Question]) -> list[NDArray[np.float64] | Exception]:
        now_s = time.monotonic()
        waiting = [number for number, question in enumerate(questions) if question.until_s > now_s]
        found: list[NDArray[np.float64] | Exception] = [TimeoutError("nobody waits for this answer")] * len(questions)
        if not waiting:
            return found
        try:
            for number, p_llm in zip(waiting, self._arm.score([questions[number].visit for number in waiting]), strict=True):
                found[number] = p_llm
            candidates = sum(len(questions[number].visit.candidates) for number in waiting)
            self._metrics.computed(len(waiting), candidates, 1000 * (time.monotonic() - now_s))
        except Exception as error:
            if len(questions) == 1:
                return [error]
            # One question must not take down those that came with it.
            return [self._score([question])[0] for question in questions]
        return found

    async def check_health(self) -> None:
        """Answer one question, or be in the middle of others; raises where the model can't any more, or is stuck."""
        running_s = self._batches.running_s()
        if running_s is not None:
            if running_s > self._patience_s:
                raise RuntimeError(f"the LLM computes the same questions for {running_s:.0f} s")
            return
        found = await asyncio.wait_for(asyncio.to_thread(self._arm.score, [self._probe]), min(PROBE_S, self._patience_s))
        if not np.isfinite(found[0]).all():
            raise RuntimeError("the LLM's answer to its health check is no number")


class Crm:
    """The CRM as a deployment of its own, where one process with the ingress is not enough."""

    def __init__(self, model: Model, threads: int) -> None:
        torch.set_num_threads(threads)
        self._arm, self._version = CrmArm.load(model.local()), model.version

    def __call__(self, visit: Resolved, version: str, timeout_s: float) -> Scores | str:
        """Return what the CRM says of each candidate, OTHER_VERSION where another model was meant: its items have other rows."""
        del timeout_s  # Serve drops what is cancelled while it waits, and nothing here takes long
        return self._arm.score(visit) if version == self._version else OTHER_VERSION


@serve.ingress()
class Ingress:
    """HTTP: reads requests, holds the CRM and the policy, asks the LLM where the policy says so."""

    async def __init__(self, model: Model, arguments: Arguments, llm: DeploymentHandle, crm: DeploymentHandle | None) -> None:
        torch.set_num_threads(arguments.crm_threads)
        self._access = access(arguments)
        self._service = Service(model, arguments, llm, crm)
        require_shared_events(arguments.events, self._service.events.shared)
        self._arguments = arguments
        await wait_for_llm(asking(llm, model.version), others_answer)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_http(self._service, self._arguments, self._access)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take a policy or a threshold without a restart: `{"policy": policy.json's content, "threshold": number}`."""
        self._service.live.take(config)

    def check_health(self) -> None:
        """Score one candidate with the CRM."""
        self._service.probe()
