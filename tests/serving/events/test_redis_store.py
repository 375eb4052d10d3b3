"""The Redis store: durability before the first append, a server that is killed, hangs or refuses, and no password in any message."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from components.errors import ConfigError
from serving.events import Event, EventStoreError, Latest, check_store, open_store
from serving.events import redis_store as module
from tests.serving.events.servers import DURABLE, PASSWORD, RedisServer, event, free_port

Start = Callable[..., RedisServer]


def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(start_redis: Start) -> None:
    server = start_redis()
    store = open_store(server.uri)
    acknowledged: list[Event] = []

    def work(thread: int) -> None:
        number = 0
        while True:
            one = event(f"{thread}-{number}", f"u{thread}", timestamp_s=number)
            try:
                store.append(one)
            except EventStoreError:
                return
            acknowledged.append(one)
            number += 1

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 200:
        time.sleep(0.01)
    server.kill()
    for thread in threads:
        thread.join()
    server.start()
    found = [one for thread in range(8) for one in store.latest(f"u{thread}", 1_000_000).events]
    assert set(acknowledged) <= set(found)
    assert len(found) <= len(acknowledged) + 8  # each thread may have had one under way
    assert not store.append(acknowledged[-1])
    store.close()


def test_a_redis_that_would_lose_events_is_refused_unless_trusted_or_mended(start_redis: Start) -> None:
    server = start_redis(*DURABLE, "--maxmemory", "100mb")
    for name, expected, received in (
        ("appendonly", "yes", "no"),
        ("appendfsync", "always", "everysec"),
        ("no-appendfsync-on-rewrite", "no", "yes"),
        ("maxmemory-policy", "noeviction", "allkeys-lru"),
    ):
        server.client.config_set(name, received)
        store, trusting = open_store(server.uri), open_store(f"{server.uri}?durability=trusted")
        with pytest.raises(ConfigError) as known:
            check_store(server.uri)
        with pytest.raises(EventStoreError) as met:
            store.append(event(name))
        for caught in (known, met):
            assert str(caught.value) == (
                f"event store {server.uri} would lose events: expected {name} {expected}, received {received}; "
                f"set it with `redis-cli CONFIG SET {name} {expected}` and in redis.conf"
            )
        assert store.latest("u1", 1) == trusting.latest("u1", 1), "what is there may be read"
        assert trusting.append(event(f"{name} trusted"))
        server.client.config_set(name, expected)
        assert store.append(event(name))
        for one in (store, trusting):
            one.close()


def test_a_redis_that_forbids_config_is_accepted_only_when_trusted(start_redis: Start) -> None:
    server = start_redis(*DURABLE, "--rename-command", "CONFIG", "")
    with pytest.raises(ConfigError, match=r"expected an answer to CONFIG GET appendonly, .* add \?durability=trusted"):
        check_store(server.uri)
    check_store(f"{server.uri}?durability=trusted")
    store = open_store(f"{server.uri}?durability=trusted")
    assert store.append(event())
    store.close()


def test_a_server_that_is_away_is_an_error_at_once_and_its_return_is_noticed(start_redis: Start) -> None:
    server = start_redis()
    store = open_store(server.uri)
    store.append(event())
    server.kill()
    started_s = time.monotonic()
    late = open_store(server.uri)
    for action in (lambda: store.append(event("e2")), lambda: late.append(event("e2")), lambda: late.latest("u1", 1)):
        with pytest.raises(EventStoreError, match=f"event store {server.uri}: (append|check|reading) failed: ConnectionError"):
            action()
    with pytest.raises(EventStoreError, match="check failed: ConnectionError"):
        check_store(server.uri)
    assert time.monotonic() - started_s < 2
    server.start()
    for number, one in enumerate((store, late)):
        assert one.latest("u1", 1).events == (event(f"e{number + 1}"),)
        assert one.append(event(f"e{number + 2}"))
        one.close()


def test_a_server_that_hangs_costs_one_timeout(start_redis: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    server = start_redis()
    store = open_store(server.uri)
    store.append(event())
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    for action in (lambda: store.append(event("e2")), lambda: store.latest("u1", 1)):
        started_s = time.monotonic()
        with pytest.raises(EventStoreError, match="TimeoutError"):
            action()
        assert time.monotonic() - started_s < 1.5
    server.process.send_signal(signal.SIGCONT)
    store.append(event("e2"))  # it may have arrived before
    assert store.latest("u1", 5).events == (event(), event("e2"))
    store.close()


def test_a_redis_without_memory_refuses_whole_events(start_redis: Start) -> None:
    server = start_redis(*DURABLE, "--maxmemory", "1")
    store = open_store(server.uri)
    with pytest.raises(EventStoreError, match="append failed: OutOfMemoryError"):
        store.append(event())
    server.client.config_set("maxmemory", "0")
    assert store.latest("u1", 1) == Latest((), 0)
    assert store.append(event())
    store.close()


def test_keys_of_other_kinds_are_an_error_and_leave_no_half_of_an_event(empty_redis: RedisServer) -> None:
    store = open_store(empty_redis.uri)
    empty_redis.client.set("tandem:{events}:user:u1", "a text")
    with pytest.raises(EventStoreError, match=r"append failed: ResponseError: .*WRONGTYPE"):
        store.append(event())
    empty_redis.client.delete("tandem:{events}:user:u1")
    assert store.append(event())
    assert all(key.startswith(b"tandem:{events}:") for key in empty_redis.client.scan_iter())
    store.close()


def test_it_works_on_a_server_of_a_cluster(start_redis: Start) -> None:
    server = start_redis(*DURABLE, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until_s = time.monotonic() + 10
    while b"cluster_state:ok" not in server.client.execute_command("CLUSTER", "INFO") and time.monotonic() < until_s:
        time.sleep(0.02)
    store = open_store(server.uri)
    assert [store.append(event("{other}", "{tag}")), store.append(event("{other}", "{tag}"))] == [True, False]
    assert store.latest("{tag}", 5).count == 1
    store.close()


def test_the_password_is_used_and_never_shown(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(password=PASSWORD)
    place = f"127.0.0.1:{server.port}/0"
    address = f"redis://:{quote(PASSWORD, safe='')}@{place}"
    store = open_store(address)
    assert store.append(event())
    server.client.config_set("appendfsync", "everysec")
    with pytest.raises(ConfigError, match=f"event store redis://{place} would lose events") as refused:
        check_store(address)
    with pytest.raises(EventStoreError, match="AuthenticationError") as wrong:
        check_store(f"redis://me:hidden@{place}")
    with pytest.raises(EventStoreError, match="AuthenticationError") as absent:
        check_store(f"redis://{place}")
    server.kill()
    with pytest.raises(EventStoreError, match=f"event store redis://{place}: reading failed: ConnectionError") as away:
        store.latest("u1", 1)
    shown = [str(error.getrepr(style="long", showlocals=False)) for error in (refused, wrong, absent, away)] + [caplog.text, repr(store)]
    assert not [text for text in shown if PASSWORD in text or quote(PASSWORD, safe="") in text]
    store.close()


def test_a_server_that_repeats_the_password_is_not_quoted(monkeypatch: pytest.MonkeyPatch, empty_redis: RedisServer) -> None:
    store = module.RedisStore(empty_redis.uri)
    store._password = "a long password that Redis cuts after some letters"

    def refuse(*_: object) -> None:
        raise module.redis.ResponseError(f"unknown command 'AUTH', with args beginning with: '{store._password[:20]}'")

    monkeypatch.setattr(store._client, "eval", refuse)
    with pytest.raises(EventStoreError, match=r"append failed: ResponseError: \(the message holds the password\)"):
        store.append(event())


def test_tls_is_spoken_to_rediss_alone(empty_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    with pytest.raises(EventStoreError, match=f"event store rediss://127.0.0.1:{empty_redis.port}/0: check failed"):
        check_store(empty_redis.uri.replace("redis://", "rediss://"))
    with pytest.raises(EventStoreError, match="check failed"):
        check_store(f"redis://{'x' * 70}:{free_port()}")
