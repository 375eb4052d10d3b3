"""What `python -m serving.deploy` refuses before anything is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serving import deploy
from tests.end_to_end.command import ROOT


@pytest.mark.parametrize(
    ("user_config", "said"),
    [
        ({"threshold": "abc"}, 'expected a number, "inf" or "-inf" for threshold, got \'abc\''),
        ({"treshold": 0.5}, "expected policy and threshold, got treshold"),
        ({"policy": {"router": {}}}, "policy: expected the keys reads, "),
        ({"policy": 5}, "policy: expected the content of a policy.json, got 5"),
    ],
)
def test_a_policy_that_no_process_would_take_is_refused_before_it_is_deployed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, user_config: dict[str, Any], said: str
) -> None:
    content = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    content["applications"][0]["deployments"][0]["user_config"] = user_config
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(deploy.ray_token, "other_cluster", lambda: None)  # it would speak to this process's Ray
    monkeypatch.setattr("sys.argv", ["serving.deploy", str(file), "--address", "http://127.0.0.1:9"])
    assert deploy.main() == 2
    assert capsys.readouterr().err.startswith(f"error: tandem, Ingress, user_config: {said}")


def test_it_says_where_serve_listens_once_the_application_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    details = iter(
        [
            {"applications": {"tandem": {"status": "DEPLOYING"}}},
            {"applications": {"tandem": {"status": "RUNNING"}}},
            {"applications": {}, "http_options": {"host": "127.0.0.1", "port": 8123}},
        ]
    )

    class Client:
        """Ray's, of a cluster that starts the application."""

        def __init__(self, address: str) -> None:
            assert address == "http://head:8265"

        def deploy_applications(self, config: dict[str, Any]) -> None:
            assert [application["name"] for application in config["applications"]] == ["tandem"]

        def get_serve_details(self) -> dict[str, Any]:
            return next(details)

    file = ROOT / "deploy" / "serve.yaml"
    monkeypatch.setattr(deploy.ray_token, "other_cluster", lambda: None)
    monkeypatch.setattr("ray.dashboard.modules.serve.sdk.ServeSubmissionClient", Client)
    monkeypatch.setattr(deploy, "POLL_S", 0)
    monkeypatch.setattr("sys.argv", ["serving.deploy", str(file), "--address", "http://head:8265"])
    assert deploy.main() == 0
    assert capsys.readouterr().out == f"{file}: running, port 8123 of 127.0.0.1\n"
