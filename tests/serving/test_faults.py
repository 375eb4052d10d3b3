"""The endpoint under trouble: processes killed, frozen and starved, clients that leave, more requests than it can answer.

`pytest -s` shows the figures that the README gives.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.end_to_end.command import ROOT, environment
from tests.nodes import free_ports
from tests.serving import ensembles
from tests.serving.load import load
from tests.serving.served import BOTH, Answer, Served, served
from tests.serving.test_bad_input import DOCUMENTS, JSON, MARK

pytestmark = [pytest.mark.end_to_end, pytest.mark.alone]
DEADLINE_S = 0.8
EVENTS = 30
BODY_S = 1.0
SETTINGS = (
    "health_check_period_s=1",
    "health_check_timeout_s=4",
    "breaker_pause_ms=1000",
    f"deadline_ms={1000 * DEADLINE_S:.0f}",
    f"max_body_ms={1000 * BODY_S:.0f}",
    # Queues that a crowd fills which this machine can make.
    "max_ongoing_requests=16",
    "max_queued_requests=16",
    "llm_max_ongoing_requests=4",
    "llm_max_queued_requests=4",
)
CRM_ONLY = {**BOTH, "threshold": "inf"}
CROWD = 300  # clients


@pytest.fixture(scope="module")
def model(short_folder: Path) -> Path:
    return ensembles.make(short_folder / "faults")


@pytest.fixture(scope="module")
def endpoint(short_folder: Path, model: Path) -> Iterator[Served]:
    with served(short_folder / "faults", model, *SETTINGS) as found:
        assert not found.post("/v1/score", BOTH).body["degraded"]
        yield found


def healthy(endpoint: Served) -> bool:
    return endpoint.post("/v1/score", BOTH).body["degraded"] is False


def assert_crm_answered(answer: Answer) -> None:
    assert {result["arm"] for result in answer.body["results"]} == {"crm"}
    assert all(result["score"] == result["p_crm"] for result in answer.body["results"])  # the policy's calibration is none


def kill(endpoint: Served, name: str) -> None:
    for pid in endpoint.pids(name):
        os.kill(pid, signal.SIGKILL)


def test_a_killed_llm_costs_no_request_and_little_time_and_comes_back(endpoint: Served) -> None:
    with load(endpoint, CRM_ONLY) as crm:
        endpoint.wait_until(lambda: len(crm.answers) > 100, "answers of the CRM")
    with load(endpoint, BOTH) as found:
        endpoint.wait_until(lambda: len(found.answers) > 20, "answers")
        kill(endpoint, ":Llm")
        endpoint.wait_until(lambda: any(answer.body["degraded"] for answer in found.answers), "the CRM takes over")
        endpoint.wait_until(lambda: endpoint.pids(":Llm"), "Ray starts it again")
        kill(endpoint, ":Llm")  # again, before it answers
        back_s = endpoint.wait_until(lambda: not found.answers[-1].body["degraded"], "the LLM answers again", 90)
    assert back_s < 60
    assert found.statuses == {200}
    assert not found.failures
    degraded = [answer for answer in found.answers if answer.body["degraded"]]
    for answer in degraded:
        assert_crm_answered(answer)
        assert answer.body["degraded_cause"] in ("llm_unavailable", "llm_timeout", "circuit_open", "llm_overloaded")
    # At most each failure before the circuit opens, and each probe, waits for the deadline; with four clients at once.
    open_s = [answer.seconds for answer in degraded if answer.body["degraded_cause"] == "circuit_open"]
    assert open_s
    while_open_s, crm_s = np.quantile(open_s, 0.95), np.quantile([answer.seconds for answer in crm.answers], 0.95)
    assert while_open_s <= crm_s + 0.1
    slow = sum(answer.seconds > DEADLINE_S / 2 for answer in degraded)
    assert slow <= 3 + 4 + back_s + 10
    print(f"\nthe LLM killed, twice: {len(found.answers)} answers, {len(degraded)} by the CRM, {slow} slow; back {back_s:.1f} s later;")
    print(f"p95 while the circuit is open {1000 * while_open_s:.0f} ms, of the CRM alone {1000 * crm_s:.0f} ms")


def test_a_frozen_llm_costs_the_deadline_and_is_replaced(endpoint: Served) -> None:
    endpoint.wait_until(lambda: healthy(endpoint), "healthy before")
    (frozen,) = endpoint.pids(":Llm")
    os.kill(frozen, signal.SIGSTOP)
    first = endpoint.post("/v1/score", BOTH)
    assert first.status == 200
    assert first.body["degraded_cause"] == "llm_timeout"
    assert first.seconds < DEADLINE_S + 0.5
    assert_crm_answered(first)
    ready = endpoint.get("/readyz")
    assert (ready.status, ready.body["crm"]) == (200, "ready")
    away_s = endpoint.wait_until(lambda: endpoint.pids(":Llm") not in ([frozen], []) and healthy(endpoint), "a new one answers", 90)
    print(f"\nthe LLM frozen: answered by the CRM after {first.seconds:.2f} s of {DEADLINE_S} s allowed; replaced {away_s:.1f} s later")


def test_bad_bodies_are_refused_behind_serves_proxy_as_they_are_without_it(endpoint: Served) -> None:
    def ask(body: bytes | Iterator[bytes]) -> tuple[int, dict[str, Any]]:
        with contextlib.closing(http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=30)) as client:
            client.request("POST", "/v1/score", body, JSON)  # an iterator goes out in chunks
            answer = client.getresponse()
            return answer.status, json.load(answer)

    for name in ("half of a surrogate pair", "a number beyond doubles", "100,000 lists in each other"):
        body, expected = DOCUMENTS[name]
        status, answer = ask(body)
        assert (status, answer["error"]["field"]) == (expected, "body")
        assert MARK not in json.dumps(answer)
    status, answer = ask(iter([b" " * 65_536] * 16 + [b"{"]))
    assert (status, answer["error"]["code"]) == (413, "too_large")


def test_a_body_that_never_ends_is_answered_behind_serves_proxy(endpoint: Served) -> None:
    host, port = endpoint.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(f"POST /v1/score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n".encode())
        client.sendall(b'Content-Length: 100\r\n\r\n{"user": ')
        started_s, answer = time.monotonic(), client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert BODY_S / 2 < time.monotonic() - started_s < BODY_S + 10


def test_what_happened_can_be_read_by_prometheus(endpoint: Served) -> None:
    (address,) = re.findall(r"Prometheus: (\S+)", endpoint.log.read_text())

    def exported() -> str:
        with urllib.request.urlopen(address, timeout=10) as response:
            return response.read().decode()

    expected = [
        "ray_serve_num_http_error_requests_total{",
        "tandem_candidates_total{",
        'cause="circuit_open"',
        'status="200"',
        "tandem_breaker{",
        "tandem_llm_batch_requests_bucket{",
    ]
    endpoint.wait_until(lambda: all(name in exported() for name in expected), "the metrics are exported", 30)


def test_clients_that_leave_leave_no_work_behind(endpoint: Served) -> None:
    endpoint.wait_until(lambda: healthy(endpoint), "healthy before")
    # They would wait for half a minute, more of them than the LLM and its queue hold.
    body = json.dumps({**BOTH, "threshold": "-inf", "deadline_ms": 30_000})
    frozen, *others = [pid for pid in endpoint.pids(":Llm") if psutil.Process(pid).status() != psutil.STATUS_STOPPED]
    assert not others
    os.kill(frozen, signal.SIGSTOP)
    try:
        clients = [http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=10) for _ in range(50)]
        for client in clients:
            client.request("POST", "/v1/score", body, {"content-type": "application/json"})
        time.sleep(0.3)
        for client in clients:
            client.close()
        time.sleep(0.5)
        asked = endpoint.post("/v1/score", BOTH)
        assert asked.body["degraded_cause"] == "llm_timeout", "it waits for the frozen LLM alone, its queue is empty"
    finally:
        os.kill(frozen, signal.SIGCONT)
    endpoint.wait_until(lambda: healthy(endpoint), "the LLM is free again", 5)
    assert frozen in endpoint.pids(":Llm")
    assert {endpoint.post("/v1/score", BOTH).status for _ in range(20)} == {200}


def test_ten_times_more_requests_than_it_can_answer_are_refused_and_the_rest_answered(endpoint: Served) -> None:
    endpoint.wait_until(lambda: healthy(endpoint), "healthy before")
    alone = per_second(endpoint, BOTH, 1, 1)
    capacity, of_crm = (per_second(endpoint, body, 8, 3) for body in (BOTH, CRM_ONLY))
    assert 10 * capacity / alone <= CROWD, "ten times as many clients as it can keep up with"
    before = {name: memory(endpoint, name) for name in (":Ingress", "ProxyActor")}
    with load(endpoint, BOTH, CROWD, pause_s=0.1) as found:  # more than all processes and queues hold
        time.sleep(6)
        counted = list(found.answers)  # those that come while the clients stop are none of these seconds
    grown = {name: (memory(endpoint, name) - bytes_before) / 2**20 for name, bytes_before in before.items()}
    normal_s = endpoint.wait_until(lambda: healthy(endpoint), "normal again", 10)
    assert found.statuses <= {200, 503}
    refused = [answer for answer in found.answers if answer.status == 503]
    assert all(answer.headers.get("retry-after") or answer.headers.get("Retry-After") for answer in refused)
    own, serves = ([answer for answer in refused if ("error" in answer.body) is ours] for ours in (True, False))
    assert own, "what reaches the ingress is refused as JSON"
    assert serves, "what doesn't, by Serve"
    answered = [answer for answer in counted if answer.status == 200]
    assert "llm_overloaded" in {answer.body["degraded_cause"] for answer in answered}
    assert max(grown.values()) < 200, grown
    offered, good, p99_s = len(counted) / 6, len(answered) / 6, np.quantile([answer.seconds for answer in answered], 0.99)
    print(f"\n{CROWD} clients: {offered:.0f} requests/s, {good:.0f} answered within {p99_s:.2f} s (p99), the rest refused;", end=" ")
    print(f"8 clients get {capacity:.0f}/s, of the CRM alone {of_crm:.0f}/s, 1 client {alone:.0f}/s;", end=" ")
    print(f"ingress +{grown[':Ingress']:.0f} MiB, proxy +{grown['ProxyActor']:.0f} MiB; normal {normal_s:.1f} s later")
    assert good >= 0.7 * capacity
    assert p99_s < 10, "queues are short: whoever is let in has its answer soon"


def per_second(endpoint: Served, body: Any, clients: int, seconds: float) -> float:
    with load(endpoint, body, clients) as found:
        time.sleep(seconds)
        return sum(answer.status == 200 for answer in found.answers) / seconds


def memory(endpoint: Served, name: str) -> int:
    """Return the bytes that processes hold."""
    return sum(psutil.Process(pid).memory_info().rss for pid in endpoint.pids(name))


def test_an_llm_that_can_never_start_again_leaves_the_crm_answering(endpoint: Served, model: Path) -> None:
    (model / "llm").rename(model / "away")
    kill(endpoint, ":Llm")
    with load(endpoint, BOTH, clients=2) as found:
        time.sleep(8)  # several attempts of Serve to start it
    (model / "away").rename(model / "llm")
    back_s = endpoint.wait_until(lambda: healthy(endpoint), "the LLM answers after its repair", 90)
    print(f"\nan LLM that could not start: {len(found.answers)} answers by the CRM; back {back_s:.1f} s after its repair")
    assert found.statuses == {200}
    assert not found.failures
    assert found.answers[-1].body["degraded"]
    assert_crm_answered(found.answers[-1])
    assert endpoint.get("/readyz").status == 200


def event(number: int) -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": "newcomer", "item_id": "i1", "rating": 5, "timestamp_s": 1_700_000_000 + number}


@pytest.fixture(scope="module")
def restarted(endpoint: Served, short_folder: Path, model: Path) -> Iterator[Served]:
    """The endpoint after every process of it died just when it had acknowledged events."""
    tree = [endpoint.process.pid, *(child.pid for child in psutil.Process(endpoint.process.pid).children(recursive=True))]
    for number in range(EVENTS):
        assert endpoint.post("/v1/events", event(number)).body == {"event_id": f"e{number}", "stored": True}
    for pid in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with served(short_folder / "faults", model, *SETTINGS) as found:
        yield found


def test_an_acknowledged_event_survives_the_death_of_every_process(restarted: Served) -> None:
    assert restarted.get("/v1/users/newcomer").body["earlier_count"] == EVENTS
    assert restarted.post("/v1/events", event(0)).body == {"event_id": "e0", "stored": False}


def test_requests_in_flight_are_answered_before_it_stops(restarted: Served) -> None:
    with load(restarted, BOTH, clients=4) as found:
        restarted.wait_until(lambda: len(found.answers) > 20, "answers")
        told_s = time.monotonic()
        restarted.process.send_signal(signal.SIGTERM)
        restarted.process.wait(timeout=60)
    assert {answer.status for answer in found.answers if answer.asked_s < told_s} == {200}
    assert found.statuses <= {200, 404, 503}
    assert all("results" in answer.body for answer in found.answers if answer.status == 200)
    assert found.failures, "the clients went on until nobody listened"
    # Who asks when it stops may find nobody; who had asked before is answered, and nobody gets half an answer.
    assert [failure.error for failure in found.failures if failure.asked_s < told_s or not failure.is_silence] == []


def run_local(temp: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (temp / "ray").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "serving.local", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(temp), capture_output=True, text=True, timeout=120, check=False)


def test_a_port_in_use_is_one_clear_error(short_folder: Path, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_local(short_folder / "port", "--model", str(model), "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"error: port: expected a free one, 127.0.0.1:{port} can't be listened on: Address already in use"]


def test_beyond_loopback_it_refuses_to_start_without_a_key(short_folder: Path, model: Path) -> None:
    (port,) = free_ports(1)
    done = run_local(short_folder / "open", "--model", str(model), "--host", "0.0.0.0", "--port", str(port))
    assert done.returncode == 2
    assert "beyond loopback: expected api_key_file=FILE" in done.stderr.splitlines()[-1]
