"""The policy that is in force: the model's own, or what `user_config` says; a wrong one is refused and the one in force stays."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from components.errors import ArtifactError, ConfigError
from components.routing.policy import Policy, crm_only

LOGGER = logging.getLogger("ray.serve")
KEYS = {"policy", "threshold"}
GRID = np.linspace(0.0, 1.0, 21)


class LivePolicy:
    """Serve stops a process whose `reconfigure` raises, a working one too: so nothing here does."""

    def __init__(self, shipped: Mapping[str, Any], on_change: Callable[[bool], None]) -> None:
        """`shipped` is the content of the model's policy.json; `on_change` hears whether a policy was refused. Raises ArtifactError."""
        self._shipped, self._on_change = shipped, on_change
        self.refusal: str | None = None  # why the last `user_config` is not in force
        self._use(Policy.from_json(shipped))

    def take(self, config: Mapping[str, Any]) -> None:
        """Put `policy` (the content of a policy.json; the model's own where absent) and `threshold` in force, or log why not."""
        try:
            self._use(_read(config, self._shipped))
            self.refusal = None
        except Exception as error:  # whatever an operator wrote
            self.refusal = f"user_config: {error}"
            LOGGER.error("%s; the policy %s stays in force", self.refusal, self.version)
        self._on_change(self.refusal is not None)

    def _use(self, policy: Policy) -> None:
        _try(policy)
        self.policy = policy
        self.version = hashlib.sha256(json.dumps(policy.to_json(), sort_keys=True).encode()).hexdigest()[:12]


def require_valid(config: Mapping[str, Any]) -> None:
    """Raise ConfigError or ArtifactError for a `user_config` that no process would take, whatever its model."""
    given = config.get("policy")
    policy = _read(config, crm_only().to_json() if given is None else given)
    if given is not None:
        _try(policy)


def _read(config: Mapping[str, Any], shipped: Mapping[str, Any]) -> Policy:
    if unknown := set(config) - KEYS:
        raise ConfigError(f"expected policy and threshold, got {', '.join(sorted(map(str, unknown)))}")
    given, threshold = config.get("policy"), config.get("threshold")
    policy = Policy.from_json(shipped if given is None else given)
    return policy if threshold is None else replace(policy, threshold=_number(threshold))


def _try(policy: Policy) -> None:
    """Raise ArtifactError for a policy that makes something else than a probability of two of them."""
    p_crm, p_llm = (p.ravel() for p in np.meshgrid(GRID, GRID))
    for asked in (True, False):
        p = policy.answer({"p_crm": p_crm, "p_llm": p_llm}, np.full(len(p_crm), asked)).p_routed
        if not ((p >= 0) & (p <= 1)).all():
            raise ArtifactError(f"policy: expected answers in [0, 1], got {p.min():g} to {p.max():g}")


def _number(value: Any) -> float:
    if value in ("inf", "-inf") or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return float(value)
    raise ConfigError(f'expected a number, "inf" or "-inf" for threshold, got {value!r}')
