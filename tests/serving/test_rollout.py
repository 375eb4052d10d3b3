"""A running application changed by `python -m serving.deploy`: a policy, a model, a damaged model, while clients ask."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import artifacts
from components.inventory import inventory
from tests.end_to_end.command import ROOT
from tests.nodes import RAY, free_ports, node, wait_for, with_token
from tests.serving import ensembles
from tests.serving.load import load
from tests.serving.served import BOTH, Served

pytestmark = pytest.mark.end_to_end
PAUSE_S = 0.1  # of each client, between two requests
LATE = {"llm_timeout", "llm_overloaded", "circuit_open", "deadline"}  # on a machine that other tests keep busy
EVERYTHING = {**BOTH, "threshold": "-inf"}


@dataclass(frozen=True)
class Cluster:
    """A head node, and what is deployed on it by the project's own file."""

    temp: Path
    dashboard: str
    endpoint: Served
    config: dict[str, Any]

    def deploy(self, model: Path, user_config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (application,) = self.config["applications"]
        application["args"] = {"model": str(model), "events": f"sqlite:///{self.temp}/events.db", "health_check_period_s": 1}
        application["deployments"][0]["user_config"] = user_config
        file = self.temp / "serve.yaml"
        file.write_text(yaml.safe_dump(self.config))
        command = [sys.executable, "-m", "serving.deploy", str(file), "--address", self.dashboard, "--timeout-s", "180"]
        return subprocess.run(command, cwd=ROOT, env=with_token(self.temp), capture_output=True, text=True, timeout=240, check=False)

    def deployed(self, model: Path, user_config: dict[str, Any]) -> None:
        """Deploy what works."""
        done = self.deploy(model, user_config)
        assert done.returncode == 0, done.stderr
        assert self.status()["status"] == "RUNNING"

    def status(self) -> dict[str, Any]:
        token = (self.temp / ".ray" / "auth_token").read_text().strip()
        request = urllib.request.Request(f"{self.dashboard}/api/serve/applications/", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)["applications"]["tandem"]


@pytest.fixture(scope="module")
def cluster(short_folder: Path) -> Iterator[Cluster]:
    temp = short_folder / "rollout"
    temp.mkdir()
    log = temp / "nodes.log"
    subprocess.run([RAY, "get-auth-token", "--generate"], env=with_token(temp), capture_output=True, check=True)
    gcs, board, client, agent, listen, http = free_ports(6)
    ports = ["--port", str(gcs), "--dashboard-port", str(board), "--ray-client-server-port", str(client)]
    agents = ["--dashboard-agent-grpc-port", str(agent), "--dashboard-agent-listen-port", str(listen)]
    with node(temp / "a", log, "--head", *ports, *agents) as head:
        wait_for(board, log)
        config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
        config["http_options"]["port"] = http
        yield Cluster(temp, f"http://127.0.0.1:{board}", Served(f"http://127.0.0.1:{http}", head, log), config)


@pytest.fixture(scope="module")
def deployed(cluster: Cluster) -> Cluster:
    cluster.deployed(ensembles.make(cluster.temp / "first"), {})
    cluster.endpoint.wait_until(lambda: cluster.endpoint.post("/v1/score", BOTH).body.get("degraded") is False, "it answers", 120)
    return cluster


def ask(cluster: Cluster) -> dict[str, Any]:
    return cluster.endpoint.post("/v1/score", BOTH).body


def everything_asked(cluster: Cluster) -> dict[str, Any]:
    return cluster.endpoint.post("/v1/score", EVERYTHING).body


def p_llm(body: dict[str, Any]) -> list[float]:
    return [result["p_llm"] for result in body["results"]]


def test_a_new_threshold_goes_live_without_a_restart(deployed: Cluster) -> None:
    before, processes = ask(deployed), deployed.endpoint.pids("ServeReplica")
    with load(deployed.endpoint, BOTH, pause_s=PAUSE_S) as found:
        deployed.deployed(deployed.temp / "first" / "ensemble", {"threshold": "inf"})
        deployed.endpoint.wait_until(lambda: ask(deployed)["policy_version"] != before["policy_version"], "the new policy")
    assert found.statuses == {200}
    assert not found.failures
    assert ask(deployed)["llm_scored"] == 0 < before["llm_scored"]
    assert deployed.endpoint.pids("ServeReplica") == processes


def test_a_wrong_policy_is_refused_and_one_that_comes_by_serves_own_command_stops_nothing_and_is_shown(deployed: Cluster) -> None:
    before, processes = ask(deployed), deployed.endpoint.pids("ServeReplica")
    with load(deployed.endpoint, BOTH, pause_s=PAUSE_S) as found:
        refused = deployed.deploy(deployed.temp / "first" / "ensemble", {"treshold": 1})
        assert refused.returncode == 2
        assert refused.stderr.endswith("tandem, Ingress, user_config: expected policy and threshold, got treshold\n")
        assert deployed.endpoint.get("/v1/policy").body["refused"] is None
        serve = [str(Path(RAY).with_name("serve")), "deploy", str(deployed.temp / "serve.yaml"), "--address", deployed.dashboard]
        subprocess.run(serve, cwd=ROOT, env=with_token(deployed.temp), capture_output=True, timeout=120, check=True)
        deployed.endpoint.wait_until(lambda: deployed.endpoint.get("/v1/policy").body["refused"], "the refusal")
    assert found.statuses == {200}
    assert not found.failures
    assert "expected policy and threshold, got treshold" in deployed.endpoint.get("/v1/policy").body["refused"]
    assert ask(deployed)["policy_version"] == before["policy_version"]
    assert deployed.endpoint.pids("ServeReplica") == processes


def test_a_new_model_rolls_in_without_a_failed_request(deployed: Cluster) -> None:
    before = everything_asked(deployed)
    with load(deployed.endpoint, EVERYTHING, pause_s=PAUSE_S) as found:
        deployed.deployed(ensembles.make(deployed.temp / "second", seed=1), {})
        deployed.endpoint.wait_until(lambda: ask(deployed)["model_version"] != before["model_version"], "the new model", 120)
    assert found.statuses == {200}
    assert not found.failures
    assert {answer.body["model_version"] for answer in found.answers} == {"seed-0", "seed-1"}
    after = everything_asked(deployed)
    assert (after["model_version"], after["degraded"]) == ("seed-1", False)
    # Whichever processes met: numbers of the two models are never mixed.
    arms = {"seed-0": p_llm(before), "seed-1": p_llm(after)}
    assert arms["seed-0"] != pytest.approx(arms["seed-1"], abs=1e-3)
    for answer in found.answers:
        if answer.body["degraded"]:
            assert answer.body["degraded_cause"] in LATE | {"llm_other_version", "llm_unavailable"}
        else:
            assert p_llm(answer.body) == pytest.approx(arms[answer.body["model_version"]], abs=1e-5)


def test_a_damaged_model_does_not_replace_one_that_works(deployed: Cluster) -> None:
    damaged = ensembles.make(deployed.temp / "damaged", seed=2)
    weights = damaged / "crm" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with load(deployed.endpoint, BOTH, pause_s=PAUSE_S) as found:
        done = deployed.deploy(damaged, {})
        time.sleep(3)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "crm/model.safetensors is damaged" in said
    assert found.statuses == {200}
    assert not found.failures
    assert {answer.body["model_version"] for answer in found.answers} == {"seed-1"}
    assert deployed.status()["status"] == "DEPLOY_FAILED"
    assert "crm/model.safetensors is damaged" in deployed.status()["message"]


@pytest.mark.faults
def test_an_llm_that_cannot_load_leaves_the_answers_to_the_version_before(deployed: Cluster) -> None:
    broken = ensembles.make(deployed.temp / "broken", seed=3)
    (broken / "prompts.json").write_text("{}")
    manifest = broken / artifacts.MANIFEST
    content = json.loads(manifest.read_text())
    content["files"] = {name: entry for name, entry in inventory(str(broken)).items() if name != artifacts.MANIFEST}
    manifest.write_text(json.dumps(content))
    before = everything_asked(deployed)
    with load(deployed.endpoint, EVERYTHING, pause_s=PAUSE_S) as found:
        done = deployed.deploy(broken, {})
    assert (done.returncode, "KeyError" in done.stderr) == (1, True)
    assert found.statuses == {200}
    assert not found.failures
    assert {answer.body["model_version"] for answer in found.answers} == {before["model_version"]}
    assert {answer.body["degraded_cause"] for answer in found.answers} <= LATE | {None}
    assert not everything_asked(deployed)["degraded"]
