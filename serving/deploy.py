"""Deploy a configuration of Serve's and wait for what comes of it, which `serve deploy` does not.

python -m serving.deploy deploy/serve.yaml [--address http://127.0.0.1:8265] [--timeout-s 900]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components import ray_token
from components.errors import ConfigError, TandemError, one_line
from serving.live_policy import require_valid

if TYPE_CHECKING:
    from ray.serve.schema import ServeDeploySchema

POLL_S = 0.5
IMPORT_PATH = "serving.app:build"


def last_error(messages: Iterable[str]) -> str | None:
    """Return the last line of what processes said that names an error."""
    said = [line.strip() for message in messages for line in message.splitlines() if "Error: " in line]
    return said[-1] if said else None


def deploy(file: Path, address: str, timeout_s: float) -> str:
    """Return when every application of the file runs, and where Serve listens; raises TandemError with the reason where one does not."""
    ray_token.other_cluster()  # before Ray is imported, which reads its environment then
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
    from ray.serve.schema import ServeDeploySchema

    try:
        config = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: expected a configuration of Serve: {error}") from error
    _require_user_configs(config)
    client, until_s = ServeSubmissionClient(address), time.monotonic() + timeout_s
    client.deploy_applications(config.model_dump(exclude_unset=True))
    waiting = {application.name for application in config.applications}
    while waiting:
        found = client.get_serve_details()["applications"]
        for name in waiting & found.keys():
            if found[name]["status"] == "DEPLOY_FAILED":
                raise TandemError(f"{name}: {_reason(found[name])}; what ran before goes on")
        waiting -= {name for name in waiting & found.keys() if found[name]["status"] == "RUNNING"}
        if waiting and time.monotonic() > until_s:
            raise TandemError(f"{', '.join(sorted(waiting))}: not running after {timeout_s:g} s; Serve goes on trying, see serve status")
        time.sleep(POLL_S if waiting else 0)
    listens = client.get_serve_details().get("http_options") or {"port": "?", "host": "?"}
    return f"port {listens['port']} of {listens['host']}"


def _require_user_configs(config: ServeDeploySchema) -> None:
    """Raise ConfigError for a policy or threshold that every process would refuse, and go on with the one in force."""
    for application in config.applications:
        for deployment in application.deployments if application.import_path == IMPORT_PATH else []:
            if not isinstance(deployment.user_config, dict):  # none is given
                continue
            try:
                require_valid(deployment.user_config)
            except TandemError as error:
                raise ConfigError(f"{application.name}, {deployment.name}, user_config: {error}") from error


def _reason(application: dict[str, Any]) -> str:
    messages = [application["message"], *(each["message"] for each in application["deployments"].values())]
    return last_error(messages) or application["message"]


def main() -> int:
    """Run the command line and return its exit code: 0 running, 1 failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m serving.deploy", description="Deploy, and wait until it runs or has failed.")
    parser.add_argument("file", type=Path, help="for example deploy/serve.yaml")
    parser.add_argument("--address", default=os.environ.get("RAY_DASHBOARD_ADDRESS", "http://127.0.0.1:8265"), help="of Ray's dashboard")
    parser.add_argument("--timeout-s", type=float, default=900.0)
    options = parser.parse_args()
    try:
        where = deploy(options.file, options.address, options.timeout_s)
    except (TandemError, RuntimeError, ConnectionError) as error:  # the latter two are the client's own
        print(one_line(f"error: {error}"), file=sys.stderr)
        return error.exit_code if isinstance(error, TandemError) else 1
    print(f"{options.file}: running, {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
