"""The circuit breaker under a clock that the tests move."""

from __future__ import annotations

from serving.breaker import CircuitBreaker


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(2, 5.0, clock)
    for _ in range(2):
        breaker.failed(breaker.allow())
    return breaker


def test_it_is_closed_until_the_last_failure_in_a_row() -> None:
    breaker = CircuitBreaker(3, 5.0, Clock())
    for _ in range(2):
        breaker.failed(breaker.allow())
    assert (breaker.state, bool(breaker.allow())) == ("closed", True)
    breaker.failed(breaker.allow())
    assert (breaker.state, bool(breaker.allow())) == ("open", False)


def test_a_success_between_failures_starts_the_count_afresh() -> None:
    breaker = CircuitBreaker(2, 5.0, Clock())
    breaker.failed(breaker.allow())
    breaker.succeeded()
    breaker.failed(breaker.allow())
    assert breaker.state == "closed"


def test_a_closed_circuit_lets_any_number_ask_at_once() -> None:
    breaker = CircuitBreaker(1, 5.0, Clock())
    assert all(breaker.allow() for _ in range(10))


def test_giving_up_is_no_failure() -> None:
    breaker = CircuitBreaker(1, 5.0, Clock())
    for _ in range(10):
        breaker.gave_up(breaker.allow())
    assert breaker.state == "closed"


def test_nobody_asks_during_the_pause_and_one_afterwards() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = 4.9
    assert (breaker.state, breaker.allow()) == ("open", 0)
    clock.now_s = 5.0
    assert breaker.state == "half_open"
    assert [bool(breaker.allow()) for _ in range(3)] == [True, False, False]
    assert breaker.state == "half_open"


def test_a_probe_that_succeeds_closes_the_circuit() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = 5.0
    assert breaker.allow()
    breaker.succeeded()
    assert (breaker.state, bool(breaker.allow())) == ("closed", True)
    breaker.failed(breaker.allow())
    assert breaker.state == "closed", "one failure is fewer than two"


def test_a_probe_that_fails_begins_another_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = 7.0
    breaker.failed(breaker.allow())
    clock.now_s = 11.9
    assert (breaker.state, breaker.allow()) == ("open", 0)
    clock.now_s = 12.0
    assert (breaker.state, bool(breaker.allow())) == ("half_open", True)


def test_a_probe_that_gave_up_leaves_its_place_to_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now_s = 5.0
    breaker.gave_up(breaker.allow())
    assert breaker.state == "half_open"
    assert [bool(breaker.allow()) for _ in range(2)] == [True, False]


def test_who_asked_before_the_circuit_opened_does_not_touch_the_probe() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 5.0, clock)
    early, late, last = (breaker.allow() for _ in range(3))
    breaker.failed(early)
    clock.now_s = 5.0
    probe = breaker.allow()
    breaker.gave_up(late)
    assert breaker.allow() == 0, "the probe is still out"
    breaker.failed(last)
    assert (breaker.state, breaker.allow()) == ("half_open", 0), "an old failure neither ends the probe nor lengthens the pause"
    breaker.failed(probe)
    clock.now_s = 9.9
    assert breaker.state == "open"
    clock.now_s = 10.0
    assert breaker.state == "half_open"


def test_an_old_failure_does_not_lengthen_the_pause() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 5.0, clock)
    first, second = breaker.allow(), breaker.allow()
    breaker.failed(first)
    clock.now_s = 4.0
    breaker.failed(second)
    clock.now_s = 5.0
    assert breaker.state == "half_open"


def test_an_answer_that_was_asked_for_before_shows_that_the_other_side_is_well() -> None:
    clock = Clock()
    breaker = CircuitBreaker(1, 5.0, clock)
    first, _ = breaker.allow(), breaker.allow()
    breaker.failed(first)
    breaker.succeeded()
    assert breaker.state == "closed"
