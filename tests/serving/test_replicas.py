"""Several processes of each kind: events in Redis, the model in a bucket, the CRM in a deployment of its own; and one of them killed.

`pytest -s` shows the figures that the README gives.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.features.visit import Candidate, Visit
from components.joint.arms import CrmArm
from tests.object_store import new_bucket, upload
from tests.serving import ensembles
from tests.serving.events.servers import RedisServer
from tests.serving.load import load
from tests.serving.served import BOTH, Served, served

pytestmark = pytest.mark.end_to_end
CLIENTS, PAUSE_S = 4, 0.1
RECOVERY_S = 60


@pytest.fixture(scope="module")
def endpoint(short_folder: Path, s3: dict[str, str]) -> Iterator[Served]:
    folder = short_folder / "replicas"
    redis = RedisServer(folder / "redis").start()
    try:
        several = ("ingress_replicas=2", "crm_replicas=1", "health_check_period_s=1")
        model = upload(ensembles.make(folder), f"{new_bucket()}/run/ensemble")
        with served(folder, model, f"events={redis.uri}", *several) as found:
            yield found
    finally:
        redis.kill()


def test_an_event_that_one_process_took_is_seen_by_all(endpoint: Served) -> None:
    assert len(endpoint.pids(":Ingress")) == 2
    event = {"event_id": "e", "user_id": "somebody", "item_id": "i1", "rating": 5, "timestamp_s": 1_700_000_000}
    answers = [endpoint.post("/v1/events", event).body["stored"] for _ in range(10)]
    assert answers == [True] + 9 * [False]
    assert {endpoint.get("/v1/users/somebody").body["earlier_count"] for _ in range(20)} == {1}


def test_the_crm_in_a_deployment_of_its_own_answers_as_in_the_ingress(endpoint: Served, short_folder: Path) -> None:
    assert len(endpoint.pids(":Crm")) == 1
    arm = CrmArm.load(str(short_folder / "replicas" / "ensemble"))
    visit = Visit("u1", {}, (("i1", 5.0), ("i2", 2.0)), 2, tuple(Candidate(item["id"]) for item in BOTH["candidates"]))
    history = [{"item_id": item, "rating": rating} for item, rating in visit.history]
    answer = endpoint.post("/v1/score", {**BOTH, "user": {"id": "u1", "history": history}, "threshold": "inf"})
    assert [result["p_crm"] for result in answer.body["results"]] == pytest.approx(arm.score(arm.resolver.resolve(visit))["p_crm"])


def test_a_killed_crm_costs_no_request(endpoint: Served) -> None:
    (killed,) = endpoint.pids(":Crm")
    with load(endpoint, BOTH, CLIENTS, PAUSE_S) as found:
        endpoint.wait_until(lambda: len(found.answers) > 20, "answers")
        os.kill(killed, signal.SIGKILL)
        away_s = endpoint.wait_until(lambda: endpoint.pids(":Crm") not in ([], [killed]), "Ray starts it again")
        away_s += endpoint.wait_until(lambda: not found.answers[-1].body["degraded"], "it answers again")
    assert found.statuses == {200}
    assert not found.failures
    print(f"\nthe CRM of its own killed: {len(found.answers)} answers, none lost; back {away_s:.1f} s later")
    causes = {answer.body["degraded_cause"] for answer in found.answers if answer.body["degraded"]}
    assert any(cause.startswith("crm_") for cause in causes)


def test_a_killed_ingress_costs_at_most_the_requests_it_held(endpoint: Served) -> None:
    with load(endpoint, BOTH, CLIENTS, PAUSE_S) as found:
        endpoint.wait_until(lambda: len(found.answers) > 20, "answers")
        os.kill(endpoint.pids(":Ingress")[0], signal.SIGKILL)
        away_s = endpoint.wait_until(lambda: len(endpoint.pids(":Ingress")) == 2, "Ray starts it again", 60)
        before = len(found.answers)
        endpoint.wait_until(lambda: len(found.answers) > before + 20, "answers afterwards")
    failed = sum(answer.status != 200 for answer in found.answers) + len(found.failures)
    assert failed <= CLIENTS
    print(f"\none of two ingresses killed: {failed} of {len(found.answers)} requests lost; two again {away_s:.1f} s later")


def test_without_its_controller_every_request_is_answered_and_ray_starts_another(endpoint: Served) -> None:
    (killed,) = endpoint.pids("ServeController")
    with load(endpoint, BOTH, CLIENTS, PAUSE_S) as found:
        os.kill(killed, signal.SIGKILL)
        away_s = endpoint.wait_until(lambda: endpoint.pids("ServeController") not in ([], [killed]), "Ray starts it again")
        before = len(found.answers)
        endpoint.wait_until(lambda: len(found.answers) > before + 20, "answers afterwards")
    assert {answer.status for answer in found.answers} == {200}
    assert not found.failures
    print(f"\nServe's controller killed: {len(found.answers)} answers, none lost; another {away_s:.1f} s later")


def test_without_its_proxy_nobody_is_heard_until_serve_starts_another(endpoint: Served) -> None:
    """The one place where a node's requests end: several nodes behind a load balancer have one each."""
    (killed,) = endpoint.pids("ProxyActor")
    os.kill(killed, signal.SIGKILL)
    silent_s = endpoint.wait_until(lambda: endpoint.post("/v1/score", BOTH).status == 200, "the endpoint is heard again", RECOVERY_S)
    print(f"\nServe's proxy killed: nobody heard for {silent_s:.1f} s")
    assert endpoint.pids("ProxyActor") != [killed]
