"""A small Ray of a test module's own, apart from any other on the machine."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipelines import cluster


@contextmanager
def local_ray(num_cpus: int = 4) -> Iterator[None]:
    """Start Ray on this machine as the pipeline does on a laptop, and shut it down."""
    os.environ.setdefault("RAY_worker_niceness", "0")
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")  # short: Ray's socket paths must stay below 108 characters
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=256 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        cluster.steady_data()
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
