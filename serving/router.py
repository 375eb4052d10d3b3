"""The online router: the CRM scores every candidate, the policy picks those that the LLM scores too, and both become one answer."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.features.visit import Visit
from components.routing.policy import Policy, Routes
from components.routing.signals import entropy
from serving.schemas import Reason

RESERVE_S = 0.01  # of the deadline, kept for writing the answer
PRIOR = 0.5  # the answer where the CRM itself gives no probability


class LlmFailureError(Exception):
    """The LLM gave no answer; `cause` goes into the response."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class AskLlm(Protocol):
    """Gives the LLM's probability of each candidate of a visit, within a time; raises LlmFailureError."""

    def __call__(self, visit: Visit, timeout_s: float) -> Awaitable[NDArray[np.float64]]: ...


@dataclass(frozen=True)
class Limits:
    """What one request allows."""

    deadline_s: float  # on time.monotonic's clock
    max_llm_share: float = 1.0
    threshold: float | None = None  # in the place of the policy's


@dataclass(frozen=True)
class Scored:
    """The answers for the candidates of one visit [C]."""

    score: NDArray[np.float64]
    arm: NDArray[np.str_]
    p_crm: NDArray[np.float64]
    p_llm: NDArray[np.float64]  # nan where the LLM was not asked or gave no answer
    confidence: NDArray[np.float64]
    reason: list[Reason]
    degraded_cause: str | None
    llm_s: float  # time spent waiting for the LLM


async def route(
    policy: Policy, visit: Visit, rows: dict[str, NDArray], ask_llm: AskLlm, limits: Limits, now_s: Callable[[], float] = time.monotonic
) -> Scored:
    """Answer every candidate; `rows` is what the CRM says of them (`CrmArm.score`).

    Whatever the LLM does, there is an answer: the CRM's, with a cause, where the LLM was to be asked and did not answer.
    """
    policy = policy if limits.threshold is None else replace(policy, threshold=limits.threshold)
    cause = None
    p_crm = rows["p_crm"]
    broken = ~((p_crm >= 0) & (p_crm <= 1))
    if broken.any():
        cause, rows = "crm_invalid_output", {**rows, "p_crm": np.where(broken, PRIOR, p_crm)}
    wanted, asked = choose(policy, rows, limits.max_llm_share)
    p_llm = np.full(len(p_crm), np.nan)
    started_s = now_s()
    if asked.any():
        part = replace(visit, candidates=tuple(compress(visit.candidates, asked.tolist())))
        try:
            p_llm[asked] = await ask_llm(part, limits.deadline_s - started_s - RESERVE_S)
        except LlmFailureError as failure:
            cause = cause or failure.cause
        else:
            invalid = asked & ~((p_llm >= 0) & (p_llm <= 1))
            p_llm[invalid] = np.nan
            cause = cause or ("llm_invalid_output" if invalid.any() else None)
    llm_s = now_s() - started_s
    routes = policy.answer({**rows, "p_llm": p_llm}, asked)
    wrong = ~((routes.p_routed >= 0) & (routes.p_routed <= 1))
    if wrong.any():
        cause = cause or "policy_invalid_output"
        routes = Routes(np.where(wrong, "crm", routes.arm), np.where(wrong, rows["p_crm"], routes.p_routed))
    reason: list[Reason] = [_reason(*flags) for flags in zip(wanted, asked, np.isfinite(p_llm), broken, strict=True)]
    confidence = 1.0 - entropy(rows["p_crm"]) / math.log(2.0)
    shown = np.where(broken, np.nan, p_crm)
    return Scored(routes.p_routed, routes.arm, shown, p_llm, confidence, reason, cause, llm_s)


def choose(policy: Policy, rows: dict[str, NDArray], max_llm_share: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which candidates the policy wants the LLM for, and which of those the share allows: the worthiest."""
    count = len(rows["p_crm"])
    if policy.never_asks:
        return np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    # A request is one user at one moment: nothing to group by.
    estimate = policy.router.estimate(rows)
    level = estimate if policy.unit == "candidate" else np.full(count, estimate.mean())
    wanted = level > policy.threshold
    room = math.floor(max_llm_share * count + 1e-9)
    if policy.unit == "request" and wanted.sum() > room:
        return wanted, np.zeros(count, np.bool_)
    asked = np.zeros(count, np.bool_)
    asked[np.argsort(np.where(wanted, -estimate, np.inf), kind="stable")[:room]] = True
    return wanted, asked & wanted


def _reason(wanted: bool, asked: bool, answered: bool, broken: bool) -> Reason:
    if answered:
        return "above_threshold"
    if broken:
        return "crm_failed"
    if asked:
        return "llm_failed"
    return "over_budget" if wanted else "below_threshold"
