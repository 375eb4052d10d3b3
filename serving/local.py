"""Serve the newest finished run on this machine: what `make serve` starts.

python -m serving.local [--model URI] [--port 8000] [key=value of serving/arguments.py ...]
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from components import ray_token
from components.errors import ArtifactError, ConfigError, TandemError, one_line
from serving.deploy import last_error

RUNS = Path("runs")
HOST = "127.0.0.1"
NAME = "tandem"
REQUEST_TIMEOUT_S = 65.0  # above the longest deadline_ms
FLAGS = {
    # Serve's mode for throughput, without what it opens beside: an empty answer took 4.5 ms with it and 5.8 without, on a busy machine.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # would listen on more ports, and wait half a minute for load balancers when it stops
    # The mode asks replicas by gRPC, but Ray 2.60 reads what its proxy does before the mode: the CRM took 14.8 ms without, 9.2 with it.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    # Ray 2.60 waits longer and longer between requests that it hands on from a queue, as if each were an attempt that failed. By its own
    # .025 to .5 s, a queue that clients kept full let 4 requests a second through to an idle replica, and never came out of it.
    "RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S": "0.005",
    "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S": "0.01",
    "RAY_worker_niceness": "0",
}


def newest_run(runs: Path = RUNS) -> str:
    """Return the output folder of the run that finished last; raises ArtifactError where there is none."""
    finished = list(runs.glob("*/ensemble/_manifest.json"))
    if not finished:
        raise ArtifactError(f"expected a finished run below {runs.absolute()}; make run makes one")
    return str(max(finished, key=lambda path: path.stat().st_mtime).parent.parent.absolute())


def require_free(host: str, port: int) -> None:
    """Raise ConfigError where the host is no address of this machine, or another program listens already."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:  # as Serve chooses
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(f"port: expected a free one, {origin(host, port)} can't be listened on: {error.strerror}") from error


def origin(host: str, port: int) -> str:
    """Return what stands in URLs: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def port_number(text: str) -> int:
    """Read a port that can be listened on; raises ArgumentTypeError."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError("expected 1 to 65535")
    return int(text)


def http_options(host: str, port: int) -> dict[str, Any]:
    """Return how Serve listens; a request whose body never ends is answered after a while, too."""
    return {"host": host, "port": port, "request_timeout_s": REQUEST_TIMEOUT_S}


def settings_of(given: list[str]) -> dict[str, str]:
    """Return the arguments of the application; raises ConfigError for what is no KEY=VALUE.

    Events, and models where the environment names no registry, are looked for below the current folder, as runs are.
    """
    pairs = [setting.split("=", 1) for setting in given]
    if strange := [pair[0] for pair in pairs if len(pair) == 1]:
        raise ConfigError(f"expected KEY=VALUE, got {strange[0]}")
    registry = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{RUNS.absolute()}/mlflow.db"
    return {"events": f"sqlite:///{RUNS.absolute()}/events.db", "tracking_uri": registry, **dict(pairs)}


def serve(model: str, host: str, port: int, settings: dict[str, str]) -> None:
    """Start Ray and the application, say where it listens, and wait until it is stopped."""
    os.environ.update({**FLAGS, **os.environ})
    ray_token.own_cluster()  # before Ray is imported, which reads its environment then
    import ray
    from ray import serve

    from serving.access import guard
    from serving.app import build
    from serving.arguments import Arguments

    arguments = Arguments.model_validate({"model": model, **settings})
    docs = "   OpenAPI: /docs" if guard(host, arguments).docs else ""
    application = build(arguments)
    session: Any = ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=True)
    try:
        serve.start(http_options=http_options(host, port))
        _deploy(application)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped either way, requests in flight are answered first
        print(f"metrics for Prometheus: http://{HOST}:{ray.nodes()[0]['MetricsExportPort']}/metrics")
        folder = session.address_info["session_dir"]  # pyright: ignore[reportAttributeAccessIssue]
        print(f"what goes wrong is written to {folder}/logs/serve")
        print(f"serving {model} on http://{origin(host, port)}  (the page: /{docs}   stop: Ctrl-C)", flush=True)
        try:
            while True:
                time.sleep(1)
        finally:
            _drain()
    finally:
        serve.shutdown()
        ray.shutdown()


def _deploy(application: Any) -> None:
    """Deploy and wait until it answers; raises TandemError with what a process said that could not start."""
    from ray import serve

    try:
        serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        deployments = serve.status().applications[NAME].deployments
        said = last_error(each.message for each in deployments.values())
        raise TandemError(f"the endpoint could not start: {said or error}") from error


def _drain() -> None:
    """Let the application answer what it holds; whoever asks now gets 404. Shutting Serve down ends its proxy at once, answers and all."""
    from ray import serve
    from ray.exceptions import RayError

    with contextlib.suppress(TimeoutError, RayError):  # it stops either way
        serve.delete(NAME)


def main() -> int:
    """Run the command line and return its exit code: 0 stopped, 1 failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m serving.local", description="Serve a finished run on this machine.")
    parser.add_argument("--model", help="a run's folder or models:/NAME@ALIAS; default: the newest finished run below runs/")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=port_number, default=8000)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="arguments of the application, see serving/arguments.py")
    options = parser.parse_args()
    try:
        settings = settings_of(options.settings)
        require_free(options.host, options.port)
        serve(options.model or newest_run(), options.host, options.port, settings)
    except (TandemError, ValueError) as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return error.exit_code if isinstance(error, TandemError) else 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
