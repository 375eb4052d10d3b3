"""The Ray cluster that a run uses: its own on this machine, or the one it is told of; and how Ray Data behaves on it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import ray
from ray._raylet import Config as RayletConfig  # pyright: ignore[reportAttributeAccessIssue]
from ray.data import DataContext, Dataset
from ray.data.datasource import FilenameProvider
from ray.exceptions import AuthenticationError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from components import ray_token, storage
from components.errors import ConfigError, ResourceError
from pipelines.tasks import require_rows

LEAST_LOGICAL_CPUS = 4  # a laptop's Ray: tasks that wait for files and actors that hold models share what cores there are
CPUS_PER_TASK = 0.25  # of Ray Data's reading, changing and writing tasks beside a pool of actors
CONNECT_TIMEOUT_S = 10.0
ACTORS_TIMEOUT_S = 900  # for the place of a pool's actors on a cluster that others use too
AUTOSCALED_ACTORS_TIMEOUT_S = 3600  # the same on nodes that first have to be found, started and set up
LOOK_TIMEOUT_S = 300.0  # for the first worker of a node, which may have to unpack the job's code


@dataclass(frozen=True)
class Config:
    """Where the run's tasks and workers live."""

    address: str | None = None
    """Address of a running cluster; default: the job's cluster (RAY_ADDRESS), else one of this run's own on this machine."""
    autoscales: bool = False
    """The cluster adds nodes when they are asked for: a run waits for them, where it would be refused."""
    object_store_gib: float = 1.0
    """Shared memory for data in flight on a cluster of the run's own; more spills to disk."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.object_store_gib <= 1024:
            raise ConfigError(f"cluster.object_store_gib: expected 0.1 to 1024, got {self.object_store_gib}")


def connect(config: Config) -> None:
    """Join the cluster, or start one on this machine when no address is known."""
    # Ray's workers are nice by default (15): any other program would starve a training run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_terminate = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place
    address = config.address or os.environ.get("RAY_ADDRESS")
    print(f"Ray: joining the cluster at {address}" if address else "Ray: starting on this machine", file=sys.stderr, flush=True)
    if address:
        _require_listening(address)
        ray_token.other_cluster()
        RayletConfig.initialize("")  # Ray read its environment when it was imported
        _join(address)
    else:
        ray_token.own_cluster()
        RayletConfig.initialize("")
        ray.init(
            address="local",
            num_cpus=max(LEAST_LOGICAL_CPUS, os.cpu_count() or 1),
            object_store_memory=int(config.object_store_gib * 2**30),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    signal.signal(signal.SIGTERM, on_terminate)
    steady_data(config.autoscales)


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, AuthenticationError) as error:
        wants = f"one that asks for a token wants its own in {ray_token.token_file()}"
        raise ResourceError(f"the Ray cluster at {address} can't be joined, {wants}: {str(error).splitlines()[0]}") from error


def _require_listening(address: str) -> None:
    """Raise ResourceError where no cluster listens: Ray would ask again and again, for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # "auto" and ray://, which say themselves what is wrong
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ResourceError(f"expected a Ray cluster at {address}, nothing answers there: {error}") from error


def steady_data(autoscales: bool = False) -> None:
    """Make Ray Data quiet, repeatable and safe on two CPUs."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # What a task raises comes to the caller as it is. Ray Data would leave its text alone, and prints it twice before that.
    context.raise_original_map_exception = True
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context.execution_options.preserve_order = True
    # The new Parquet reader's listing task holds a whole CPU and can wait for ever on a small machine.
    context.use_datasource_v2 = False
    context.wait_for_min_actors_s = AUTOSCALED_ACTORS_TIMEOUT_S if autoscales else ACTORS_TIMEOUT_S


class _PartNames(FilenameProvider):
    """Names in the order of the data set, so that a rerun reads the same rows in the same order."""

    def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
        return f"part-{task_index:06}-{write_uuid}.parquet"


def write_parts(dataset: Dataset, uri: str, rows: int) -> None:
    """Write a data set's blocks as `part-*.parquet` below `uri`; raises ArtifactError where these files don't hold so many rows."""
    store, path = storage.arrow(uri)
    dataset.write_parquet(
        path, filesystem=store, filename_provider=_PartNames(file_format="parquet"), ray_remote_args={"num_cpus": CPUS_PER_TASK}
    )
    require_rows(uri, rows)


def read_parts(uri: str) -> Dataset:
    """Read the `part-*.parquet` files below `uri`."""
    store, path = storage.arrow(uri)
    return ray.data.read_parquet(path, filesystem=store, num_cpus=CPUS_PER_TASK)


def map_tables(dataset: Dataset, change: Callable[[pa.Table], pa.Table]) -> Dataset:
    """Change each block as an Arrow table."""
    return dataset.map_batches(
        change,  # pyright: ignore[reportArgumentType]
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=CPUS_PER_TASK,
    )


Asked = Literal["auto", "yes", "no"]  # whether to compute on GPUs


@dataclass(frozen=True)
class Need:
    """Workers that a stage must have placed at the same time."""

    what: str
    count: int
    each: dict[str, float]  # resources of one worker, all on one node


DATA_TASKS = Need("Ray Data's own tasks", 2, {"CPU": CPUS_PER_TASK})  # what reads for a pool of actors, and waits if they hold every CPU


def require(stages: Mapping[str, Sequence[Need]]) -> None:
    """Raise ResourceError when the cluster can never place what a stage asks for: waiting would be for ever."""
    missing = [f"{stage}: {line}" for stage, needs in stages.items() for line in lacking(needs)]
    if missing:
        raise ResourceError(f"the cluster has {described()}, which is not enough for {'; '.join(missing)}")


def require_shared(folders: Sequence[str]) -> None:
    """Raise ResourceError when a node of the cluster does not see one of these local folders: tasks anywhere read and write them."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1 or not folders:
        return
    look = ray.remote(num_cpus=0)(lambda: [folder for folder in folders if not Path(folder).exists()])
    looks = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote() for node in nodes]
    for node, answer in zip(nodes, looks, strict=True):
        host = node["NodeManagerHostname"]
        try:
            missing = ray.get(answer, timeout=LOOK_TIMEOUT_S)
        except RayError as error:
            raise ResourceError(f"could not ask node {host} whether it sees {folders[0]}: {type(error).__name__}") from error
        if missing:
            raise ResourceError(
                f"expected {missing[0]} on every node, {host} does not see it: "
                "give a folder that all nodes share, or a store (s3://BUCKET/FOLDER)"
            )


def lacking(needs: Sequence[Need]) -> list[str]:
    """Place the needs of one stage beside each other on the cluster's nodes; say for each that does not fit how many workers do."""
    free = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    found: list[str] = []
    for need in needs:
        wanted = {name: amount for name, amount in need.each.items() if amount}
        left = need.count
        for node in free:
            placed = min(left, *(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items()))
            node.update({name: node.get(name, 0.0) - placed * amount for name, amount in wanted.items()})
            left -= placed
        if left:
            found.append(f"{need.what} need {need.count} x {need.each}, {need.count - left} can be placed")
    return found


def on_gpus(asked: Asked, places: Need) -> bool:
    """Tell whether to compute on GPUs: as asked, or where it is left open, if the cluster has all the places with them.

    GPUs that are too few for that are named: whoever has them wants to know how they are used.
    """
    if asked != "auto":
        return asked == "yes"
    missing = lacking([places])
    if missing and any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"]):
        print(f"no GPU is used: {missing[0]}; fewer of them, or a smaller share of a GPU each, would find places", file=sys.stderr)
    return not missing


def described() -> str:
    """Return the cluster's CPUs, GPUs and nodes in words; Ray's CPUs are places for tasks, as many as it was told."""
    resources, nodes = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
    return f"{resources.get('CPU', 0):g} CPU slots and {resources.get('GPU', 0):g} GPUs on {nodes} node(s)"
