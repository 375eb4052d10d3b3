"""One run at a time on an object store: taken by one, renewed while it lives, taken over when it is silent."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from components import storage
from components.errors import OutputBusyError, TandemError
from pipelines import lease
from pipelines.lease import Lease, leased

LEASE_S = 1.0
Hold = Callable[..., AbstractContextManager[Callable[[], None]]]


def refuse(owner: str) -> None:
    raise OutputBusyError(owner)


@pytest.fixture
def hold(remote: str) -> Hold:
    """Return what holds one lock, as the owner of a name."""
    fs, folder = storage.filesystem(remote)
    return lambda me, busy=refuse, lease_s=LEASE_S: leased(fs, f"{folder}/.lock", me, busy, lease_s)


@pytest.fixture
def dead(remote: str) -> dict[str, Any]:
    """A lock whose owner was killed: nobody renews it."""
    fs, folder = storage.filesystem(remote)
    owner = Lease(fs, f"{folder}/.lock", "the dead", LEASE_S)
    owner.take(refuse)
    return json.loads(fs.cat_file(f"{folder}/.lock"))  # pyright: ignore


def test_a_second_run_is_refused_as_soon_as_the_first_is_seen_alive(hold: Hold) -> None:
    with hold("first"):
        started_s = time.monotonic()
        with pytest.raises(OutputBusyError, match=r"^first$"), hold("second"):
            pytest.fail("two runs hold one lock")
        assert time.monotonic() - started_s < LEASE_S


def test_a_lock_that_was_given_back_is_taken_at_once(hold: Hold) -> None:
    for me in ("first", "second", "third"):
        started_s = time.monotonic()
        with hold(me, lease_s=30.0):
            assert time.monotonic() - started_s < 3


def test_a_dead_owners_lock_is_taken_over_when_its_lease_ran_out(hold: Hold, dead: dict[str, Any]) -> None:
    assert dead["owner"] == "the dead"
    started_s = time.monotonic()
    with hold("heir"):
        assert time.monotonic() - started_s >= LEASE_S


@pytest.mark.slow
def test_of_many_that_want_a_dead_owners_lock_one_gets_it(bucket: str) -> None:
    fs, folder = storage.filesystem(bucket)
    Lease(fs, f"{folder}/.lock", "the dead", LEASE_S).take(refuse)
    got: list[str] = []

    def want(me: str) -> None:
        try:
            with leased(fs, f"{folder}/.lock", me, refuse, LEASE_S):
                got.append(me)
                time.sleep(3 * LEASE_S)
        except OutputBusyError as error:
            got.append(f"refused, {error} has it")

    threads = [threading.Thread(target=want, args=(f"heir {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (owner,) = [name for name in got if not name.startswith("refused")]
    assert sorted(got) == sorted([owner, *[f"refused, {owner} has it"] * 5])


@pytest.mark.slow
def test_a_run_that_waits_gets_the_lock_when_the_owner_is_done(hold: Hold) -> None:
    told: list[str] = []
    first = hold("first")
    first.__enter__()
    threading.Timer(3 * LEASE_S, lambda: first.__exit__(None, None, None)).start()
    with hold("second", busy=told.append):
        assert told == ["first"]


def test_an_owner_that_slept_through_its_lease_is_interrupted_and_told_who_took_it(
    hold: Hold, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wake(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGTERM, wake)
    awake, write = threading.Event(), Lease._write

    def asleep(self: Lease, expected: str, held: bool = True) -> bool:
        if self._me == "sleeper" and expected:
            awake.wait()
        return write(self, expected, held)

    monkeypatch.setattr(Lease, "_write", asleep)
    try:
        with (  # noqa: PT012
            pytest.raises(OutputBusyError, match=f"{remote}/.lock was taken over by heir"),
            hold("sleeper") as require,
            hold("heir"),
        ):
            with pytest.raises(InterruptedError):  # noqa: PT012
                awake.set()
                threading.Event().wait(10)  # woken where it waits for a lock
            with pytest.raises(OutputBusyError):
                require()
            raise KeyboardInterrupt  # what a run makes of the signal
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_owner_that_wakes_learns_that_it_lost_before_it_publishes(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "renew", lambda self: None)  # it has not woken yet
    with pytest.raises(OutputBusyError, match="was taken over by heir"), hold("sleeper") as require:  # noqa: PT012
        require()
        with hold("heir") as heirs:
            with pytest.raises(OutputBusyError, match="was taken over by heir"):
                require()
            heirs()
            require()


def test_a_store_that_is_away_for_a_moment_is_waited_for_and_for_a_lease_at_most(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "renew", lambda self: None)
    put, failures = Lease._put, [OSError("away"), OSError("away")]

    def flaky(self: Lease, content: str, condition: dict[str, str]) -> str:
        if failures:
            raise failures.pop()
        return put(self, content, condition)

    with pytest.raises(OutputBusyError), hold("owner", lease_s=0.5) as require:  # noqa: PT012
        monkeypatch.setattr(Lease, "_put", flaky)
        require()
        assert not failures
        failures.extend([OSError("away")] * 1000)
        require()


def test_a_write_whose_answer_was_lost_loses_no_lock(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "renew", lambda self: None)
    put, lost = Lease._put, [TimeoutError("no answer")]

    def unheard(self: Lease, content: str, condition: dict[str, str]) -> str:
        written = put(self, content, condition)
        if lost:
            raise lost.pop()
        return written

    with hold("owner") as require:
        monkeypatch.setattr(Lease, "_put", unheard)
        require()
        assert not lost


def test_a_request_that_came_through_and_was_sent_again_is_no_conflict(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, folder = storage.filesystem(bucket)
    put = Lease._put_s3

    def twice(self: Lease, content: str, condition: dict[str, str]) -> str:
        put(self, content, condition)
        return put(self, content, condition)

    monkeypatch.setattr(Lease, "_put_s3", twice)
    monkeypatch.setattr(Lease, "_require_conditions", lambda self: None)
    owner = Lease(fs, f"{folder}/.lock", "me", LEASE_S)
    owner.take(refuse)
    assert owner._write(owner._mark)


def test_a_store_that_ignores_conditions_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, folder = storage.filesystem(bucket)
    put = Lease._put_s3
    monkeypatch.setattr(Lease, "_put_s3", lambda self, content, condition: put(self, content, {}))
    with pytest.raises(TandemError, match="expected a store with conditional writes, this one ignores IfNoneMatch"):
        Lease(fs, f"{folder}/.lock", "me", LEASE_S).take(refuse)


def test_a_lock_that_cannot_be_read_runs_out_too(hold: Hold, remote: str) -> None:
    with storage.open_file(f"{remote}/.lock", "wb") as file:
        file.write(b'{"owner": "torn')
    started_s = time.monotonic()
    with hold("heir") as require:
        assert time.monotonic() - started_s >= LEASE_S
        require()
        fs, path = storage.filesystem(remote)
        assert json.loads(fs.cat_file(f"{path}/.lock"))["owner"] == "heir"  # pyright: ignore


def test_a_lease_is_renewed_often_enough() -> None:
    assert lease.LEASE_S / lease.PARTS <= 10
