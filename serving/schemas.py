"""The shapes of requests and responses: what the endpoint accepts, and what its OpenAPI document says."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, field_validator, model_validator

MAX_CANDIDATES = 500
MAX_HISTORY = 5_000
MAX_DEADLINE_MS = 60_000
Arm = Literal["crm", "llm"]
Reason = Literal["below_threshold", "above_threshold", "over_budget", "llm_failed", "crm_failed"]


def _as_text(value: Any) -> Any:
    """Take whole numbers for ids."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_number(value: Any) -> Any:
    """Take the words for infinite thresholds, which JSON has no numbers for."""
    return float(value) if isinstance(value, str) and value in ("inf", "-inf") else value


# No control characters or line breaks: an id is looked up, stored and shown, and must be one line everywhere.
ID_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
ID_SCHEMA = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 128, "pattern": ID_PATTERN}, {"type": "integer"}]}
# The constraints stand next to `str`: behind a function they would be checked in Python, one candidate after the other.
Id = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=ID_PATTERN), BeforeValidator(_as_text), WithJsonSchema(ID_SCHEMA)
]
THRESHOLD_SCHEMA = {"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf"]}]}
Threshold = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_as_number), WithJsonSchema(THRESHOLD_SCHEMA)]
TimestampS = Annotated[int, Field(ge=0, le=253_402_300_799, description="seconds since 1970")]
Fields = dict[Annotated[str, StringConstraints(min_length=1, max_length=128)], Any]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Refuses unknown keys, other types, NaN and infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class HistoryEntry(Strict):
    """An earlier interaction of the user."""

    item_id: Id
    rating: float
    timestamp_s: TimestampS | None = None


class User(Strict):
    """Who asks: an id, or a description on the spot, or an id whose description is to be replaced."""

    id: Id | None = None
    profile: Fields | None = Field(None, description="fields of the user table, in the place of what is known")
    history: list[HistoryEntry] | None = Field(
        None, max_length=MAX_HISTORY, description="in the place of the stored history; ordered by timestamp_s where every entry has one"
    )

    @model_validator(mode="after")
    def _named_or_described(self) -> User:
        if self.id is None and self.profile is None and self.history is None:
            raise ValueError("expected an id, a profile or a history")
        return self


class Item(BaseModel):
    """A candidate: an id, with `title` and fields of the item table where they differ from what is known, or nothing is."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    id: Id


class Ask(Strict):
    """What all questions share."""

    user: User
    max_llm_share: Share | None = Field(None, description="the LLM scores at most this share of the candidates of this request")
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None = Field(
        None, description="answer by then, by the CRM alone if need be"
    )
    threshold: Threshold | None = Field(None, description="in the place of the policy's, for this request")
    context: Fields | None = Field(None, description="fields of the interaction that are known before it happens")

    @field_validator("threshold")
    @classmethod
    def _is_number(cls, value: float | None) -> float | None:
        if value is not None and math.isnan(value):
            raise ValueError('expected a number, "inf" or "-inf"')
        return value


class ScoreRequest(Ask):
    """Candidates to score for one user."""

    candidates: Annotated[list[Item], Field(min_length=1, max_length=MAX_CANDIDATES)]


class RankRequest(Ask):
    """The best items of the catalogue for one user."""

    k: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] = 10
    exclude_seen: bool = Field(False, description="leave out the items of the history that the models read")


class Event(Strict):
    """An interaction that happened."""

    event_id: Id
    user_id: Id
    item_id: Id
    rating: float
    timestamp_s: TimestampS


class Result(BaseModel):
    """The answer for one candidate."""

    id: str
    score: float = Field(description="click probability: what to rank by")
    arm: Arm = Field(description="whose answer counts")
    p_crm: float | None
    p_llm: float | None = Field(description="null where the LLM was not asked or gave no answer")
    confidence: float = Field(description="of the CRM: 1 - entropy / ln 2")
    reason: Reason


class Answer(BaseModel):
    """Scores for the known candidates."""

    results: list[Result]
    llm_scored: int = Field(description="candidates that the LLM scored, also those that did not make it into the results")
    unknown_items: list[str]
    unknown_user: bool = Field(description="nothing is known of this id: a cold-start answer")
    degraded: bool
    degraded_cause: str | None
    model_version: str
    policy_version: str
    timings_ms: dict[str, float]


class EventAnswer(BaseModel):
    """The event is stored and survives any crash."""

    event_id: str
    stored: bool = Field(description="false: this very event was stored before")


class ErrorBody(BaseModel):
    """What is wrong, and with which field; never what was sent."""

    code: str
    field: str | None
    message: str


class Error(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorBody
