"""What the endpoint does with a request that has been read: users and items looked up, candidates scored, an answer composed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from components import artifacts
from components.errors import ConfigError, FieldError
from components.features.latest import load_histories
from components.features.visit import Candidate, Resolved, Visit
from components.joint.arms import CrmArm, Scores
from components.routing.policy import Policy
from serving.arguments import Arguments
from serving.breaker import CircuitBreaker
from serving.events.store import Event, open_store
from serving.guarded import Guarded
from serving.histories import History, UserHistories, given
from serving.llm_client import LlmClient
from serving.metrics import Metrics
from serving.model import Model
from serving.router import Limits, Scored, route
from serving.schemas import Ask, Item, RankRequest, ScoreRequest

DESCRIBED_AT_ONCE = 20  # candidates whose descriptions are read without leaving the event loop
FUTURE_S = 86_400  # clocks of clients may run ahead by a day


@dataclass(frozen=True)
class Asker:
    """The user of a request."""

    user_id: str | None
    known: bool
    history: History


class Service:
    """One ingress process."""

    def __init__(self, model: Model, arguments: Arguments, llm: DeploymentHandle, crm: DeploymentHandle | None) -> None:
        folder = model.local()
        self.arm = CrmArm.load(folder)
        self.store, self._resolver = self.arm.store, self.arm.resolver
        self.metrics = Metrics()
        self.events = open_store(arguments.events)
        self.histories = UserHistories(self.store.users, self.store.items, load_histories(folder), self.events, self.store.history_length)
        breaker = CircuitBreaker(arguments.breaker_failures, arguments.breaker_pause_ms / 1000)
        self.llm = LlmClient(Guarded(llm, model.version, breaker, arguments.deadline_ms / 2000), self.metrics.llm_failed)
        self._crm, self._arguments, self.model_version = crm, arguments, model.version
        self._shipped = artifacts.read_json(artifacts.join(folder, "policy.json"))
        self.curve: list[dict[str, Any]] = artifacts.read_json(artifacts.join(folder, "curve.json"))
        self._item_ids = self.store.items["item_id"].to_numpy(object)
        self.reconfigure({})

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take `policy` (the content of a policy.json; the model's own where absent) and `threshold`; raises ConfigError."""
        if unknown := set(config) - {"policy", "threshold"}:
            raise ConfigError(f"user_config: expected policy and threshold, got {', '.join(sorted(unknown))}")
        policy = Policy.from_json(config.get("policy") or self._shipped)
        if config.get("threshold") is not None:
            policy = replace(policy, threshold=float(config["threshold"]))
        self.policy = policy
        self.policy_version = hashlib.sha256(json.dumps(policy.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def probe(self) -> None:
        """Score one item for nobody; raises where the CRM can't."""
        self.arm.score(self._resolver.resolve(Visit(None, {}, (), 0, (Candidate(self._item_ids[0]),))))

    async def score(self, request: ScoreRequest) -> dict[str, Any]:
        """Answer `/v1/score`: the known candidates in the order asked for; raises FieldError for what can't be scored."""
        started_s = time.monotonic()
        candidates, unknown = self._candidates(request.candidates)
        if not candidates:
            raise FieldError("candidates", "expected at least one item that is known or described")
        asker = await self._asker(request)
        visit = self._visit(request, asker, tuple(candidates.values()))
        scored, crm_s = await self._route(request, visit, await self._resolve(visit), started_s)
        position = {item: at for at, item in enumerate(candidates)}
        order = [position[item.id] for item in request.candidates if item.id in position]
        return self._answer(asker, list(candidates), order, scored, unknown, started_s, crm_s)

    async def rank(self, request: RankRequest) -> dict[str, Any]:
        """Answer `/v1/rank`: the CRM scores the catalogue, the router looks at the head of its list."""
        started_s = time.monotonic()
        asker = await self._asker(request)
        base = self._resolver.resolve(self._visit(request, asker, ()))
        everything = replace(base, item_rows=np.arange(len(self._item_ids), dtype=np.int32))
        p_crm = np.nan_to_num((await self._score_crm(everything))["p_crm"], nan=-1.0)
        if request.exclude_seen:
            p_crm[base.history_rows] = -2.0
        head = np.argsort(-p_crm, kind="stable")[: max(request.k, self._arguments.rank_head)]
        head = head[p_crm[head] > -2.0]
        visit = self._visit(request, asker, tuple(Candidate(item) for item in self._item_ids[head]))
        cap = self.policy.max_llm_share if request.max_llm_share is None else request.max_llm_share
        scored, crm_s = await self._route(
            request.model_copy(update={"max_llm_share": cap}), visit, self._resolver.resolve(visit), started_s
        )
        order = np.argsort(-scored.score, kind="stable")[: request.k].tolist()
        return self._answer(asker, self._item_ids[head].tolist(), order, scored, [], started_s, crm_s)

    async def append(self, event: Event) -> bool:
        """Store an event; returns only when it survives any crash. Raises FieldError, EventConflict or EventStoreError."""
        self._check_rating(event.rating, "rating")
        if event.timestamp_s > time.time() + FUTURE_S:
            raise FieldError("timestamp_s", "expected a time that is not in the future")
        return await asyncio.to_thread(self.events.append, event)

    async def history(self, user_id: str) -> History:
        # A read from the file beside it is quicker than the way through a thread, and waits for no writer.
        return await asyncio.to_thread(self.histories.of, user_id) if self.events.shared else self.histories.of(user_id)

    async def _asker(self, request: Ask) -> Asker:
        user = request.user
        known = user.id is not None and self._resolver.knows_user(user.id)
        if user.history is not None:
            for position, entry in enumerate(user.history):
                self._check_rating(entry.rating, f"user.history.{position}.rating")
            entries = [(entry.item_id, entry.rating, entry.timestamp_s) for entry in user.history]
            return Asker(user.id, known, given(entries, self.store.history_length))
        history = await self.history(user.id) if user.id is not None else History((), 0)
        return Asker(user.id, known or bool(history.earlier_count), history)

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
            if not description and not self._resolver.knows_item(item.id):
                unknown[item.id] = None
                continue
            candidate = Candidate(item.id, description)
            if description:
                self._resolver.described(candidate, f"candidates.{position}")
            if found.setdefault(item.id, candidate) != candidate:
                raise FieldError(f"candidates.{position}", "expected one description of an item, got two")
        return found, list(unknown)

    def _visit(self, request: Ask, asker: Asker, candidates: tuple[Candidate, ...]) -> Visit:
        return Visit(
            asker.user_id, request.user.profile or {}, asker.history.latest, asker.history.earlier_count, candidates, request.context or {}
        )

    async def _resolve(self, visit: Visit) -> Resolved:
        # Looking ids up is quick; tables of descriptions are not, and other requests go on meanwhile.
        if sum(bool(candidate.description) for candidate in visit.candidates) > DESCRIBED_AT_ONCE:
            return await asyncio.to_thread(self._resolver.resolve, visit)
        return self._resolver.resolve(visit)

    async def _score_crm(self, visit: Resolved) -> Scores:
        if self._crm is not None:
            return await self._crm.remote(visit)  # pyright: ignore[reportGeneralTypeIssues]
        if len(visit.item_rows) > 1000 or len(visit.described) > DESCRIBED_AT_ONCE:  # a whole catalogue: other requests go on meanwhile
            return await asyncio.to_thread(self.arm.score, visit)
        return self.arm.score(visit)

    async def _route(self, request: Ask, visit: Visit, resolved: Resolved, started_s: float) -> tuple[Scored, float]:
        crm_started_s = time.monotonic()
        rows = await self._score_crm(resolved)
        crm_s = time.monotonic() - crm_started_s
        deadline_s = started_s + (request.deadline_ms or self._arguments.deadline_ms) / 1000
        share = 1.0 if request.max_llm_share is None else request.max_llm_share
        threshold = None if request.threshold is None else float(request.threshold)
        return await route(self.policy, visit, rows, self.llm, Limits(deadline_s, share, threshold)), crm_s

    def _answer(
        self, asker: Asker, items: Sequence[str], order: Sequence[int], scored: Scored, unknown: list[str], started_s: float, crm_s: float
    ) -> dict[str, Any]:
        self.metrics.scored(scored)
        # Whatever was overlooked before: a number that is none never leaves.
        if not np.isfinite(scored.score + scored.confidence).all():
            raise ArithmeticError("a score is not finite")
        columns = (scored.score, scored.arm, scored.p_crm, scored.p_llm, scored.confidence)
        values = list(zip(items, *(column.tolist() for column in columns), scored.reason, strict=True))
        total_s = time.monotonic() - started_s
        return {
            "results": [_result(*values[at]) for at in order],
            "llm_scored": int(np.isfinite(scored.p_llm).sum()),
            "unknown_items": unknown,
            "unknown_user": asker.user_id is not None and not asker.known,
            "degraded": scored.degraded_cause is not None,
            "degraded_cause": scored.degraded_cause,
            "model_version": self.model_version,
            "policy_version": self.policy_version,
            "timings_ms": {"total": round(1000 * total_s, 3), "crm": round(1000 * crm_s, 3), "llm": round(1000 * scored.llm_s, 3)},
        }


def _result(item: str, score: float, arm: str, p_crm: float, p_llm: float, confidence: float, reason: str) -> dict[str, Any]:
    return {
        "id": item,
        "score": score,
        "arm": arm,
        "p_crm": p_crm if p_crm == p_crm else None,
        "p_llm": p_llm if p_llm == p_llm else None,
        "confidence": confidence,
        "reason": reason,
    }
