"""`cluster.yaml` is what `ray up` takes, and keeps strangers out."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_the_cluster_file_follows_the_schema_that_ray_ships(cluster: dict[str, Any]) -> None:
    schema = json.loads((files("ray") / "autoscaler" / "ray-schema.json").read_text())
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(cluster)] == []


def test_every_node_starts_with_token_authentication(cluster: dict[str, Any]) -> None:
    starts = [line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in cluster[key] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line and "umask 077" in line for line in starts)


def test_nothing_listens_to_the_world_and_no_token_is_written_down(cluster: dict[str, Any]) -> None:
    text = FILE.read_text()
    assert cluster["provider"]["use_internal_ips"] is True
    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text
    assert not re.search(r"\b[0-9a-f]{64}\b", text)


def test_the_head_node_type_is_one_of_those_defined(cluster: dict[str, Any]) -> None:
    assert cluster["head_node_type"] in cluster["available_node_types"]
