"""A real S3 server on loopback: moto's, on a port of its own, with nothing on disk."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec

from components import storage


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Run the server; yields the environment that leads clients to it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "an-access-key",
            "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-nowhere-else",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        process.kill()
        process.wait(timeout=10)


def new_bucket() -> str:
    """Make a bucket in the server that the environment leads to; return its URI."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


def upload(folder: Path | str, uri: str) -> str:
    """Copy what is below a local folder to a folder in a store; return its URI."""
    fs, path = storage.filesystem(uri)
    fs.put(f"{folder}/", f"{path}/", recursive=True)
    return uri


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline_s, "the S3 server did not start"
            time.sleep(0.1)
