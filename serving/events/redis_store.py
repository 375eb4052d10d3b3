"""Events in one Redis that several nodes share."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from components.errors import ConfigError
from serving.events.store import EXPECTED, Event, EventStoreError, Latest, check_limit, conflict

TIMEOUT_S = 2.0  # of a connection and of an answer; nothing is tried twice
PREFIX = "tandem:{events}:"
DURABLE = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
TRUSTED = "durability=trusted"
NEW, CONFLICT = 1, -1
DIGITS = 16
APPEND = f"""
local known = redis.call('GET', KEYS[1])
if known == ARGV[1] then return 0 end
if known then return {CONFLICT} end
local arrival = string.format('%0{DIGITS}.0f', redis.call('ZCARD', KEYS[2]))
redis.call('ZADD', KEYS[2], ARGV[2], arrival .. ARGV[3])
redis.call('SET', KEYS[1], ARGV[1])
return {NEW}
"""


class RedisStore:
    """Keeps a digest of each event under its id, and each user's events in a sorted set; one script appends to both.

    An id is unique among all users, so both keys must lie on one server: all keys carry the hash tag {events}. On Redis
    Cluster they share a slot, and the address is that of the server that holds it. Nothing may be removed from a sorted
    set: its size numbers the events by arrival. Every write is on disk before it is acknowledged; a failover to a replica
    loses what was not replicated yet.
    """

    shared = True

    def __init__(self, uri: str) -> None:
        """Raises ConfigError for an address that is none; the server is asked nothing yet, and may be away."""
        url, port, db = _parsed(uri)
        self._durable = url.query == TRUSTED
        self._name = f"event store {url.scheme}://{url.hostname}:{port}/{db}"
        self._password = unquote(url.password or "")
        self._client = redis.Redis(
            host=url.hostname or "",
            port=port,
            db=db,
            username=unquote(url.username or "") or None,
            password=self._password or None,
            ssl=url.scheme == "rediss",
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            protocol=2,
        )

    def require_durable(self) -> None:
        """Raise ConfigError where the server would lose events, EventStoreError where it does not answer."""
        if not self._durable:
            self._check_durability()
            self._durable = True

    def append(self, event: Event) -> bool:
        try:
            self.require_durable()
        except ConfigError as error:  # it may be mended while this process runs
            raise EventStoreError(str(error)) from None
        fields = [event.event_id, event.user_id, event.item_id, float(event.rating) + 0.0, event.timestamp_s]  # -0.0 is 0.0
        content = json.dumps(fields, ensure_ascii=False)
        digest = hashlib.sha256(content.encode()).hexdigest()
        with self._reporting("append"):
            keys = (f"{PREFIX}event:{event.event_id}", _user_key(event.user_id))
            answer = self._client.eval(APPEND, len(keys), *keys, digest, event.timestamp_s, content)
        if answer == CONFLICT:
            raise conflict(event)
        return answer == NEW

    def latest(self, user_id: str, limit: int) -> Latest:
        check_limit(limit)
        key = _user_key(user_id)
        with self._reporting("reading"), self._client.pipeline(transaction=True) as pipeline:
            pipeline.zcard(key)
            if limit:  # to Redis, the range up to -1 is everything
                pipeline.zrevrange(key, 0, limit - 1)
            count, *ranges = pipeline.execute()
        members = ranges[0] if ranges else []
        return Latest(tuple(Event(*json.loads(member[DIGITS:])) for member in reversed(members)), count)

    def close(self) -> None:
        self._client.close()

    def _check_durability(self) -> None:
        settings = {name: self._setting(name) for name in (*DURABLE, "maxmemory", "maxmemory-policy")}
        for name, expected in DURABLE.items():
            if settings[name] != expected:
                self._refuse(name, expected, settings[name])
        if settings["maxmemory"] != "0" and str(settings["maxmemory-policy"]).startswith("allkeys"):
            self._refuse("maxmemory-policy", "noeviction", settings["maxmemory-policy"])

    def _refuse(self, name: str, expected: str, received: Any) -> None:
        raise ConfigError(
            f"{self._name} would lose events: expected {name} {expected}, received {received}; "
            f"set it with `redis-cli CONFIG SET {name} {expected}` and in redis.conf"
        )

    def _setting(self, name: str) -> str | None:
        try:
            with self._reporting("check"):
                return self._client.config_get(name).get(name)
        except EventStoreError as error:
            if not isinstance(error.__context__, redis.ResponseError):
                raise
            raise ConfigError(
                f"{self._name}: expected an answer to CONFIG GET {name}, received a refusal; where CONFIG is forbidden, see to it that "
                f"each write is on disk before it is acknowledged, and add ?{TRUSTED} to the address"
            ) from None

    @contextlib.contextmanager
    def _reporting(self, action: str) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError, UnicodeError) as error:
            kind, text = type(error).__name__, str(error)
            if self._password and self._password[:16] in text:  # a server that knows no AUTH repeats its beginning
                text = "(the message holds the password)"
            raise EventStoreError(f"{self._name}: {action} failed: {kind}: {text}") from None


def _user_key(user_id: str) -> str:
    return f"{PREFIX}user:{user_id}"


def _parsed(uri: str) -> tuple[SplitResult, int, int]:
    """Return the parts of the address, its port and database; what cannot be read is not shown, it may be a password."""
    with contextlib.suppress(ValueError):
        url = urlsplit(uri)
        port, db = url.port or 6379, int(url.path.strip("/") or 0)
        if url.hostname and not url.fragment and url.query in ("", TRUSTED):
            return url, port, db
    raise ConfigError(f"address of the event store: {EXPECTED}, perhaps with ?{TRUSTED}; received one that cannot be read so")
