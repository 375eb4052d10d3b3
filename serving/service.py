"""What the endpoint does with a request that has been read: users and items looked up, candidates scored, an answer composed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from components import artifacts
from components.errors import FieldError
from components.features.latest import load_histories
from components.features.visit import Candidate, Resolved, Visit
from components.joint.arms import CrmArm, Scores
from components.routing.policy import Policy
from serving.answer import results
from serving.arguments import Arguments
from serving.breaker import CircuitBreaker
from serving.crm_client import DESCRIBED_AT_ONCE, CrmClient
from serving.events.store import Event, open_store
from serving.guarded import Guarded, to_deployment
from serving.histories import History, UserHistories, given
from serving.history_reader import HistoryReader
from serving.live_policy import LivePolicy
from serving.llm_client import LlmClient
from serving.metrics import Metrics
from serving.model import Model
from serving.router import Limits, Scored, route
from serving.schemas import Ask, Item, RankRequest, ScoreRequest

FUTURE_S = 86_400  # clocks of clients may run ahead by a day


@dataclass(frozen=True)
class Asker:
    """The user of a request."""

    user_id: str | None
    known: bool
    history: History
    cause: str | None  # why the history is not whole


@dataclass(frozen=True)
class Clock:
    """When a request came, and when its answer is due, on time.monotonic's clock."""

    started_s: float
    deadline_s: float

    def half(self) -> float:
        """Return when half of the time that is left will be over: for what has a substitute that takes time too."""
        return (time.monotonic() + self.deadline_s) / 2


@dataclass(frozen=True)
class CrmScores:
    """What the CRM says of each candidate."""

    rows: Scores
    cause: str | None  # why another process did not say it
    seconds: float


class Service:
    """One ingress process."""

    def __init__(self, model: Model, arguments: Arguments, llm: DeploymentHandle, crm: DeploymentHandle | None) -> None:
        folder = model.local()
        self.arm = CrmArm.load(folder)
        self.store, self.resolver = self.arm.store, self.arm.resolver
        self.metrics = Metrics()
        self.events = open_store(arguments.events)
        self._item_ids = self.store.items["item_id"].to_numpy(object)
        histories = UserHistories(self.resolver.user_row, self._item_ids, load_histories(folder), self.events, self.store.history_length)
        # Whoever waited for half of the usual time was patient; the CRM and the store of events get half of that.
        patience_s = arguments.deadline_ms / 2000
        self.histories = HistoryReader(histories, self.events, _breaker(arguments), patience_s / 2, self.metrics.breaker("events"))

        def guarded(name: str, handle: DeploymentHandle, patience_s: float) -> Guarded:
            send = to_deployment(handle, model.version)
            return Guarded(f"the {name.upper()}", send, _breaker(arguments), patience_s, self.metrics.breaker(name))

        self.llm = LlmClient(guarded("llm", llm, patience_s), self.metrics.llm_failed)
        self.crm = CrmClient(self.arm, None if crm is None else guarded("crm", crm, patience_s / 2))
        self._arguments, self.model_version = arguments, model.version
        self.live = LivePolicy(artifacts.read_json(artifacts.join(folder, "policy.json")), self.metrics.policy_refused)
        self.curve: list[dict[str, Any]] = artifacts.read_json(artifacts.join(folder, "curve.json"))

    @property
    def policy(self) -> Policy:
        return self.live.policy

    @property
    def policy_version(self) -> str:
        return self.live.version

    def probe(self) -> None:
        """Score one item for nobody; raises where the CRM can't, or gives no probability."""
        (p_crm,) = self.arm.score(self.resolver.resolve(Visit(None, {}, (), 0, (Candidate(self._item_ids[0]),))))["p_crm"]
        if not 0 <= p_crm <= 1:
            raise ArithmeticError(f"expected a probability of the CRM, got {p_crm}")

    async def score(self, request: ScoreRequest) -> dict[str, Any]:
        """Answer `/v1/score`: the known candidates in the order asked for; raises FieldError for what can't be scored."""
        clock = self._clock(request)
        candidates, unknown = self._candidates(request.candidates)
        if not candidates:
            raise FieldError("candidates", "expected at least one item that is known or described")
        asker = await self._asker(request, clock)
        visit = self._visit(request, asker, tuple(candidates.values()))
        crm = await self._score_crm(await self._resolve(visit), clock)
        scored = await self._route(request, visit, crm.rows, clock, request.max_llm_share)
        position = {item: at for at, item in enumerate(candidates)}
        order = [position[item.id] for item in request.candidates if item.id in position]
        return self._answer(asker, crm, list(candidates), order, scored, unknown, clock)

    async def rank(self, request: RankRequest) -> dict[str, Any]:
        """Answer `/v1/rank`: the CRM scores the catalogue, the router looks at the head of its list."""
        clock = self._clock(request)
        asker = await self._asker(request, clock)
        base = self.resolver.resolve(self._visit(request, asker, ()))
        crm = await self._score_crm(replace(base, item_rows=np.arange(len(self._item_ids), dtype=np.int32)), clock)
        p_crm = np.nan_to_num(crm.rows["p_crm"], nan=-1.0)
        if request.exclude_seen:
            p_crm[base.history_rows] = -2.0
        head = np.argsort(-p_crm, kind="stable")[: max(request.k, self._arguments.rank_head)]
        head = head[p_crm[head] > -2.0]
        visit = self._visit(request, asker, tuple(Candidate(item) for item in self._item_ids[head]))
        share, policy = request.max_llm_share, self.policy
        # The policy's budget, within this request; where whole requests are routed it is kept over many of them.
        if share is None and policy.unit == "candidate":
            share = policy.max_llm_share
        scored = await self._route(request, visit, {name: values[head] for name, values in crm.rows.items()}, clock, share)
        order = np.argsort(-scored.score, kind="stable")[: request.k].tolist()
        return self._answer(asker, crm, self._item_ids[head].tolist(), order, scored, [], clock)

    async def append(self, event: Event) -> bool:
        """Store an event; returns only when it survives any crash. Raises FieldError, EventConflict or EventStoreError."""
        self._check_rating(event.rating, "rating")
        if event.timestamp_s > time.time() + FUTURE_S:
            raise FieldError("timestamp_s", "expected a time that is not in the future")
        return await self.histories.waiting(self.events.append, event)

    def _clock(self, request: Ask) -> Clock:
        started_s = time.monotonic()
        return Clock(started_s, started_s + (request.deadline_ms or self._arguments.deadline_ms) / 1000)

    async def _asker(self, request: Ask, clock: Clock) -> Asker:
        user = request.user
        known = self.resolver.knows_user(user.id) or bool(user.profile)
        if user.history is not None:
            for position, entry in enumerate(user.history):
                self._check_rating(entry.rating, f"user.history.{position}.rating")
            entries = [(entry.item_id, entry.rating, entry.timestamp_s) for entry in user.history]
            return Asker(user.id, known or bool(entries), given(entries, self.store.history_length), None)
        if user.id is None:
            return Asker(None, known, History((), 0), None)
        history, cause = await self.histories.by(user.id, clock.half())
        return Asker(user.id, known or bool(history.earlier_count), history, cause)

    def _check_rating(self, rating: float, field: str) -> None:
        schema = self.store.schema
        if not schema.rating_min <= rating <= schema.rating_max:
            raise FieldError(field, f"expected {schema.rating_min:g} to {schema.rating_max:g}")

    def _candidates(self, items: Sequence[Item]) -> tuple[dict[str, Candidate], list[str]]:
        """Return what can be scored, each item once, and the names of the rest."""
        found: dict[str, Candidate] = {}
        unknown: dict[str, None] = {}
        for position, item in enumerate(items):
            description = item.model_extra or {}
            if not description and not self.resolver.knows_item(item.id):
                unknown[item.id] = None
                continue
            candidate = Candidate(item.id, description)
            before = found.setdefault(item.id, candidate)
            if not description:
                continue  # one that is described counts, before it or after it
            self.resolver.described(candidate, f"candidates.{position}")
            if before.description and before != candidate:
                raise FieldError(f"candidates.{position}", "expected one description of an item, got two")
            found[item.id] = candidate
        return found, [item for item in unknown if item not in found]  # unless it is described elsewhere in the request

    def _visit(self, request: Ask, asker: Asker, candidates: tuple[Candidate, ...]) -> Visit:
        return Visit(
            asker.user_id, request.user.profile or {}, asker.history.latest, asker.history.earlier_count, candidates, request.context or {}
        )

    async def _resolve(self, visit: Visit) -> Resolved:
        # Looking ids up is quick; tables of descriptions are not, and other requests go on meanwhile.
        if sum(bool(candidate.description) for candidate in visit.candidates) > DESCRIBED_AT_ONCE:
            return await asyncio.to_thread(self.resolver.resolve, visit)
        return self.resolver.resolve(visit)

    async def _score_crm(self, visit: Resolved, clock: Clock) -> CrmScores:
        started_s = time.monotonic()
        rows, cause = await self.crm(visit, clock.half())
        return CrmScores(rows, cause, time.monotonic() - started_s)

    async def _route(self, request: Ask, visit: Visit, rows: Scores, clock: Clock, max_llm_share: float | None) -> Scored:
        threshold = None if request.threshold is None else float(request.threshold)
        limits = Limits(clock.deadline_s, 1.0 if max_llm_share is None else max_llm_share, threshold)
        return await route(self.policy, visit, rows, self.llm, limits)

    def _answer(
        self, asker: Asker, crm: CrmScores, items: Sequence[str], order: Sequence[int], scored: Scored, unknown: list[str], clock: Clock
    ) -> dict[str, Any]:
        if failed := asker.cause or crm.cause:  # before the LLM was asked
            scored = replace(scored, degraded_cause=failed)
        self.metrics.scored(scored)
        spent_s = {"total": time.monotonic() - clock.started_s, "crm": crm.seconds, "llm": scored.llm_s}
        return {
            "results": results(scored, items, order),
            "llm_scored": int(np.isfinite(scored.p_llm).sum()),
            "unknown_items": unknown,
            "unknown_user": asker.user_id is not None and not asker.known,
            "degraded": scored.degraded_cause is not None,
            "degraded_cause": scored.degraded_cause,
            "model_version": self.model_version,
            "policy_version": self.policy_version,
            "timings_ms": {name: round(1000 * seconds, 3) for name, seconds in spent_s.items()},
        }


def _breaker(arguments: Arguments) -> CircuitBreaker:
    return CircuitBreaker(arguments.breaker_failures, arguments.breaker_pause_ms / 1000)
