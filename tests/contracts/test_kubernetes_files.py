"""The manifests in deploy/ are what KubeRay takes, let nobody in, and agree with the rest of the project."""

from __future__ import annotations

import gzip
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from pipelines import VERSION, command_line
from pipelines.recipes import RECIPES
from serving.arguments import Arguments
from serving.local import FLAGS
from tests.contracts import locks

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"
DEPLOY = ROOT / "deploy"
SETTINGS, POLICY = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
JOB, SERVICE = (yaml.safe_load((DEPLOY / f"{name}.yaml").read_text()) for name in ("rayjob", "rayservice"))
CLUSTERS = {"rayjob": JOB["spec"]["rayClusterSpec"], "rayservice": SERVICE["spec"]["rayClusterConfig"]}
PARTS = {"app.kubernetes.io/part-of": "tandem"}
each_cluster = pytest.mark.parametrize("name", CLUSTERS)


def templates(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]


PODS = {
    "submitter": JOB["spec"]["submitterPodTemplate"],
    **{f"{name} {number}": pod for name, cluster in CLUSTERS.items() for number, pod in enumerate(templates(cluster))},
}
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))


def unknown(value: Any, schema: dict[str, Any], at: str = "") -> list[str]:
    """Return the fields that a schema does not know: Kubernetes passes over them, and so would a misspelt one be."""
    if isinstance(value, list):
        return [fault for entry in value for fault in unknown(entry, schema.get("items", {}), f"{at}[]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    faults: list[str] = []
    for key, inner in value.items():
        if key in known or isinstance(others, dict):
            faults += unknown(inner, known.get(key) or others, f"{at}.{key}")
        elif "properties" in schema:
            faults.append(f"{at}.{key}")
    return faults


@pytest.mark.parametrize(("manifest", "plural"), [(JOB, "rayjobs"), (SERVICE, "rayservices")], ids=["rayjob", "rayservice"])
def test_a_manifest_follows_kuberays_own_schema(manifest: dict[str, Any], plural: str) -> None:
    path = SCHEMAS / f"ray.io_{plural}.yaml.gz"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not at {SCHEMAS}")
    definition = yaml.load(gzip.decompress(path.read_bytes()), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    (version,) = (one for one in definition["versions"] if one["storage"])
    schema = version["schema"]["openAPIV3Schema"]
    assert manifest["apiVersion"] == f"{definition['group']}/{version['name']}"
    assert manifest["kind"] == definition["names"]["kind"]
    assert [f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)] == []
    assert unknown(manifest["spec"], schema["properties"]["spec"]) == []
    misspelt = {**manifest["spec"], "shutdownAfterJobFinish": True}
    assert unknown(misspelt, schema["properties"]["spec"]) == [".shutdownAfterJobFinish"], "the check sees a misspelt field"


@each_cluster
def test_ray_is_the_locked_one_and_asks_for_a_token(name: str) -> None:
    assert CLUSTERS[name]["rayVersion"] == locks.hashed("requirements.lock")["ray"]
    assert CLUSTERS[name]["authOptions"] == {"mode": "token"}  # KubeRay makes the Secret: no token is written down
    assert not re.search(r"RAY_AUTH|\b[0-9a-f]{64}\b", (DEPLOY / f"{name}.yaml").read_text())


@each_pod
def test_every_pod_runs_as_nobody_of_importance(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in spec["containers"]:
        context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == context
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert {"/tmp", "/home/tandem"} <= writable, "where Ray and the libraries write"
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


@each_pod
def test_every_container_says_what_it_needs_and_where_settings_come_from(pod: dict[str, Any]) -> None:
    for container in pod["spec"]["containers"]:
        assert container["image"] == f"REGISTRY/tandem:{VERSION}"
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert resources["limits"]["memory"] == resources["requests"]["memory"], "a node is never promised twice"
        assert container["envFrom"][0] == {"configMapRef": {"name": SETTINGS["metadata"]["name"]}}
        assert "env" not in container


@pytest.mark.parametrize("pod", [pod for name, pod in PODS.items() if name != "submitter"])
def test_every_node_is_watched_by_what_answers_without_a_token(pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/api/local_raylet_healthz", "port": 52365}
    assert container["readinessProbe"]["httpGet"]["path"] in ("/api/gcs_healthz", "/api/local_raylet_healthz", "/-/healthz")


@each_pod
def test_the_network_policy_holds_for_every_pod(pod: dict[str, Any]) -> None:
    assert pod["metadata"]["labels"] == POLICY["spec"]["podSelector"]["matchLabels"] == PARTS
    own, operator, clients = POLICY["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": PARTS}}]}
    assert {entry["port"] for entry in operator["ports"]} == {8265, 52365}
    assert clients == {"from": [{"podSelector": {}}], "ports": [{"port": 8000}]}


def test_storage_and_tracking_are_named_once() -> None:
    assert SETTINGS["data"].keys() - FLAGS.keys() == {"TANDEM_STORAGE", "MLFLOW_TRACKING_URI"}
    text = "".join((DEPLOY / f"{name}.yaml").read_text() for name in CLUSTERS)
    assert "s3://" not in text
    assert "mlflow:" not in text


def test_the_job_is_a_command_line_that_the_pipeline_takes() -> None:
    python, script, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    assert (python, script) == ("python", "/app/pipelines/full.py")
    config = command_line.parse([argument.replace("$TANDEM_STORAGE", SETTINGS["data"]["TANDEM_STORAGE"]) for argument in arguments])
    assert config.cluster.autoscales == JOB["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert config.output == "s3://BUCKET/runs/corella"


def test_the_largest_recipe_fits() -> None:
    groups = CLUSTERS["rayjob"]["workerGroupSpecs"]
    for need in (need for stage in command_line.needs(RECIPES["corella"]()).values() for need in stage):
        wanted = {{"CPU": "cpu", "GPU": "nvidia.com/gpu"}[kind]: amount for kind, amount in need.each.items() if amount}
        places = 0
        for group in groups:
            has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            places += group["maxReplicas"] * int(min(float(has.get(kind, 0)) / amount for kind, amount in wanted.items()))
        assert places >= need.count, need


def test_the_service_serves_what_serve_yaml_says_but_beyond_loopback_with_a_key() -> None:
    plain = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    here = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    config = ServeDeploySchema.model_validate(here)
    arguments = Arguments.model_validate(config.applications[0].args)
    (key,) = (volume for volume in PODS["rayservice 0"]["spec"]["volumes"] if volume["name"] == "api-key")
    assert key["secret"]["secretName"] == "tandem-api-key"
    for pod in templates(CLUSTERS["rayservice"]):
        (mount,) = (one for one in pod["spec"]["containers"][0]["volumeMounts"] if one["name"] == "api-key")
        assert arguments.api_key_file == f"{mount['mountPath']}/key"
    plain["http_options"]["host"] = "0.0.0.0"
    plain["applications"][0]["args"] |= {"api_key_file": arguments.api_key_file, "events": arguments.events}
    assert here == plain
