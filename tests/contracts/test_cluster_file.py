"""`cluster.yaml` is what `ray up` takes, works once account and region are filled in, and keeps strangers out."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.command_line import needs
from pipelines.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster.yaml"
ACCOUNT = ROOT / "deploy" / "aws.yaml"
COMMANDS = ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def account() -> dict[str, Any]:
    """The resources of the account's template, references as plain text."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, _, node: loader.construct_scalar(node))  # pyright: ignore[reportArgumentType]
    return yaml.load(ACCOUNT.read_text(), Loader)["Resources"]


def test_the_cluster_file_follows_the_schema_that_ray_ships(cluster: dict[str, Any]) -> None:
    schema = json.loads((files("ray") / "autoscaler" / "ray-schema.json").read_text())
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(cluster)] == []


def test_account_and_region_are_all_that_is_to_be_filled_in() -> None:
    lines = [line for line in FILE.read_text().splitlines() if "# FILL IN" in line]
    assert len(lines) == 2
    assert re.search(r"region: \S+ # FILL IN", lines[0])
    assert re.search(r"s3://tandem-ACCOUNT' > \S+ # FILL IN the number of your account for ACCOUNT", lines[1])
    assert not re.search(r"\b(ami|subnet|sg|vpc)-[0-9a-f]{8}|\b[0-9]{12}\b", FILE.read_text()), "what differs by account or region"


def test_storage_is_named_once_and_reaches_every_process(cluster: dict[str, Any]) -> None:
    assert FILE.read_text().count("s3://") == 1
    commands = cluster["initialization_commands"]
    assert sum("export TANDEM_STORAGE=s3://" in line for line in commands) == 1
    assert any("'. ~/tandem/environment' >> ~/.bashrc" in line for line in commands), "Ray starts from a shell that reads it"


def test_every_node_starts_with_token_authentication(cluster: dict[str, Any]) -> None:
    starts = [line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in cluster[key] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in line and line.startswith("umask 077;") for line in starts)
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token" in cluster["initialization_commands"]


def test_nothing_listens_to_the_world_and_no_token_is_written_down(cluster: dict[str, Any]) -> None:
    text = FILE.read_text()
    assert cluster["provider"]["use_internal_ips"] is True
    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text
    assert not re.search(r"\b[0-9a-f]{64}\b", text)
    assert all(kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for kind in cluster["available_node_types"].values())


def test_nodes_get_the_locked_packages_by_the_one_installer(cluster: dict[str, Any]) -> None:
    mounted = {remote: ROOT / local for remote, local in cluster["file_mounts"].items() if local.startswith("./")}
    assert all(local.is_file() for local in mounted.values())
    for name in ("requirements.lock", "requirements-torch.lock", "deploy/install.sh"):
        assert mounted[f"/home/ubuntu/tandem/{name}"] == ROOT / name, "the installer looks for the locks above its folder"
    installs = [line for line in cluster["setup_commands"] if "pip" in line or "install.sh" in line]
    assert [line.split(" && ")[1] for line in installs] == ["sh ~/tandem/deploy/install.sh ~/tandem/venv/bin/python requirements.lock"]
    assert cluster["head_setup_commands"] == [], "Ray would install the newest boto3"


def test_the_commands_are_shell(cluster: dict[str, Any]) -> None:
    for command in (line for key in COMMANDS for line in cluster[key]):
        assert isinstance(command, str)
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 0, done.stderr


def test_the_largest_recipe_fits(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) <= cluster["max_workers"]
    for need in (need for stage in needs(RECIPES["corella"]()).values() for need in stage):
        wanted = {name: amount for name, amount in need.each.items() if amount}
        places = [
            kind.get("max_workers", 0) * int(min(kind["resources"].get(name, 0) / amount for name, amount in wanted.items()))
            for kind in kinds.values()
        ]
        assert sum(places) >= need.count, need


def test_the_account_lets_nodes_do_what_they_must_and_no_more(cluster: dict[str, Any], account: dict[str, Any]) -> None:
    profiles = {kind: settings["node_config"]["IamInstanceProfile"]["Name"] for kind, settings in cluster["available_node_types"].items()}
    assert profiles == {"head": account["Head"]["Properties"]["InstanceProfileName"]} | dict.fromkeys(
        ("cpu", "gpu"), account["Worker"]["Properties"]["InstanceProfileName"]
    )
    assert account["Nodes"]["Properties"]["GroupName"] == f"ray-autoscaler-{cluster['cluster_name']}"
    assert account["WorkerRole"]["Properties"]["ManagedPolicyArns"] == ["UseStorage"]
    (autoscaler,) = account["HeadRole"]["Properties"]["Policies"]
    for statement in autoscaler["PolicyDocument"]["Statement"]:
        if {"ec2:TerminateInstances", "iam:PassRole"} & set(
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        ):
            assert statement["Resource"] != "*" or "ray-cluster-name" in str(statement["Condition"])
    assert "0.0.0.0" not in ACCOUNT.read_text()


def test_ray_prepares_it_for_an_account_without_opening_it(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto = pytest.importorskip("moto", reason="stands in for AWS")
    import boto3
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray leaves the key that it makes
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with moto.mock_aws():
        ec2 = boto3.client("ec2", region_name=cluster["provider"]["region"])
        group = ec2.create_security_group(GroupName="ray-autoscaler-tandem", Description="as deploy/aws.yaml makes it")["GroupId"]
        among = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=among)
        from ray.autoscaler._private.aws.config import bootstrap_aws

        prepared = prepare_config(copy.deepcopy(cluster))
        validate_config(prepared)
        ready = bootstrap_aws(prepared)
        rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
        assert [rule["IpRanges"] for rule in rules] == [[]], "no address may come in, not even by ssh"
    for kind, settings in ready["available_node_types"].items():
        assert settings["node_config"]["SecurityGroupIds"] == [group]
        assert settings["node_config"]["ImageId"] == cluster["available_node_types"][kind]["node_config"]["ImageId"]
    assert ready["head_node"] == {}, "Ray adds no rights of its own to the head"
    assert ready["head_setup_commands"] == ready["worker_setup_commands"] == cluster["setup_commands"]
