"""The policy: where the LLM is asked, and what is answered then. It turns a router's estimates into a choice under a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.errors import ArtifactError, ConfigError
from components.routing import calibration
from components.routing.calibration import Calibration, Identity
from components.routing.router import EntropyRouter, Router, Rows, column, router_from_json
from components.routing.signals import Array, Floats, logit, sigmoid

Merge = Literal["replace", "mix"]
Unit = Literal["candidate", "request"]
KEYS = (
    "router",
    "threshold",
    "merge",
    "weight",
    "crm_calibration",
    "llm_calibration",
    "unit",
    "max_llm_share",
    "expected_share",
)


@dataclass(frozen=True)
class Routes:
    """What a policy did with each row."""

    arm: NDArray[np.str_]  # "crm" or "llm": whose answer counts
    p_routed: Floats

    @property
    def llm_share(self) -> float:
        return float((self.arm == "llm").mean()) if len(self.arm) else 0.0


@dataclass(frozen=True)
class Policy:
    """A router, the threshold above which its estimate asks the LLM, and how both answers become one probability."""

    router: Router
    threshold: float  # rows with an estimate strictly above it are asked; inf asks never, -inf always
    merge: Merge
    weight: float  # the LLM's weight in the mean of logits of merge "mix"; "replace" ignores it
    crm_calibration: Calibration
    llm_calibration: Calibration
    unit: Unit  # what is routed together: one candidate, or all candidates of one user in one second, by their mean estimate
    max_llm_share: float  # the budget: LLM-scored candidates / all candidates
    expected_share: float  # what the threshold gave on the rows it was fitted on

    def __post_init__(self) -> None:
        if self.merge not in get_args(Merge) or self.unit not in get_args(Unit):
            raise ConfigError(
                f"policy: expected merge of {get_args(Merge)} and unit of {get_args(Unit)}, got {self.merge!r} and {self.unit!r}"
            )
        if not all(0 <= number <= 1 for number in (self.weight, self.max_llm_share, self.expected_share)):
            raise ConfigError(
                f"policy: expected weight and shares in [0, 1], got {self.weight}, {self.max_llm_share}, {self.expected_share}"
            )
        if math.isnan(self.threshold):
            raise ConfigError("policy: expected a threshold, got nan")

    @property
    def never_asks(self) -> bool:
        return self.threshold == math.inf

    def needs_llm(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell which rows to ask the LLM about.

        Reads router.COLUMNS, and `user_id` and `timestamp_s` where whole requests are routed; the LLM's answer is not needed.
        """
        if self.never_asks:
            return np.zeros(len(column(rows, "p_crm")), np.bool_)
        return worth(self.router, self.unit, rows) > self.threshold

    def decide(self, rows: Rows) -> Routes:
        """Answer every row; the calibrated CRM where the LLM is not to be asked or where its `p_llm` is nan."""
        return self.answer(rows, self.needs_llm(rows))

    def answer(self, rows: Rows, asked: NDArray[np.bool_]) -> Routes:
        """Answer every row when the LLM was asked about the rows `asked`, by this policy or by another rule."""
        p_crm, p_llm = self.crm_calibration.apply(column(rows, "p_crm")), column(rows, "p_llm")
        asked = asked & np.isfinite(p_llm)
        p_routed = np.array(p_crm)
        p_routed[asked] = merged(p_crm[asked], self.llm_calibration.apply(p_llm[asked]), self.merge, self.weight)
        return Routes(np.where(asked, "llm", "crm"), p_routed)

    def reads(self) -> str:
        """Say in one or two plain sentences what the policy does."""
        crm, llm = f"the CRM's probability{_after(self.crm_calibration)}", f"the LLM's probability{_after(self.llm_calibration)}"
        if self.never_asks:
            return f"Never ask the LLM. Answer everything with {crm}."
        both = f"the mean, in logits, of {llm} (weight {self.weight:.2f}) and {crm} ({1 - self.weight:.2f})"
        answer = llm if self.merge == "replace" else both
        if self.threshold == -math.inf:
            return f"Ask the LLM about everything. Answer with {answer}."
        noun, of = ("candidate", "") if self.unit == "candidate" else ("request (one user, one second)", "the mean of ")
        return (
            f"Ask the LLM about a {noun} where {of}{_SAYS[self.router.name]} is above {self.threshold:.4g}: "
            f"{self.expected_share:.1%} of the candidates on validation, {self.max_llm_share:.0%} allowed. "
            f"Answer there with {answer}; everywhere else with {crm}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the policy as plain JSON; an infinite threshold is written as "inf" or "-inf"."""
        parts = (self.router, self.crm_calibration, self.llm_calibration)
        plain = {key: getattr(self, key) for key in KEYS}
        plain |= {key: part.to_json() for key, part in zip(("router", "crm_calibration", "llm_calibration"), parts, strict=True)}
        plain["threshold"] = self.threshold if math.isfinite(self.threshold) else str(self.threshold)
        return {"reads": self.reads(), **plain}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Policy:
        """Rebuild a policy; raises ArtifactError for what `to_json` can't have written."""
        if not isinstance(value, Mapping):
            raise ArtifactError(f"policy: expected the content of a policy.json, got {value!r}")
        if set(value) != {"reads", *KEYS}:
            raise ArtifactError(f"policy: expected the keys reads, {', '.join(KEYS)}; got {', '.join(value)}")
        try:
            numbers = {key: float(value[key]) for key in ("threshold", "weight", "max_llm_share", "expected_share")}
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"policy: a number could not be read: {error}") from error
        return cls(
            router=router_from_json(value["router"]),
            merge=value["merge"],
            crm_calibration=calibration.from_json(value["crm_calibration"]),
            llm_calibration=calibration.from_json(value["llm_calibration"]),
            unit=value["unit"],
            **numbers,
        )


def crm_only(max_llm_share: float = 0.0, unit: Unit = "candidate") -> Policy:
    """Return the policy of share 0: every row gets the CRM's probability as it is."""
    return Policy(EntropyRouter(), math.inf, "replace", 1.0, Identity(), Identity(), unit, max_llm_share, 0.0)


def merged(p_crm: Array, p_llm: Array, merge: Merge, weight: float) -> Floats:
    """Join calibrated probabilities of rows that the LLM was asked about."""
    if merge == "replace":
        return np.asarray(p_llm, np.float64)
    return sigmoid((1 - weight) * logit(p_crm) + weight * logit(p_llm))


def worth(router: Router, unit: Unit, rows: Rows) -> Floats:
    """Return each row's estimate; the mean of its request's where whole requests are routed."""
    estimate = router.estimate(rows)
    if unit == "candidate":
        return estimate
    request = request_of(rows)
    return (np.bincount(request, estimate) / np.bincount(request))[request]


def request_of(rows: Rows) -> NDArray[np.int64]:
    """Number the requests: rows of one user in one second are one."""
    keys = pd.DataFrame({name: column(rows, name) for name in ("user_id", "timestamp_s")})
    return keys.groupby(list(keys), sort=False).ngroup().to_numpy(np.int64)


def threshold_for(estimate: Array, share: float) -> float:
    """Return the lowest threshold that at most `share` of the rows lie strictly above; rows that tie at it are not asked."""
    rows = len(estimate)
    budget = math.floor(share * rows + 1e-9)
    if budget >= rows:
        return -math.inf
    return math.inf if budget == 0 else float(np.partition(estimate, rows - budget - 1)[rows - budget - 1])


_SAYS = {"entropy": "the CRM's entropy (nats)", "margin": "minus the CRM's margin |p - 0.5|", "gain": "the expected gain in LogLoss (nats)"}


def _after(fitted: Calibration) -> str:
    return " as it is" if fitted.name == "none" else f" after {fitted.name} calibration"
