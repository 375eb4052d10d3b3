"""What tests of every kind share."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_store import new_bucket, s3_server


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets have at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread: models as small as the tests' lose more by sharing their work than they gain."""
    import torch  # seconds, which most tests need not wait

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """A running S3 server; the environment that leads to it is set, and yielded."""
    with s3_server() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture
def bucket(s3: dict[str, str]) -> str:
    """The URI of an empty bucket in the S3 server."""
    return new_bucket()


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest) -> str:
    """The URI of a folder that is not there yet, on each kind of store."""
    if request.param == "disk":
        return str(request.getfixturevalue("tmp_path") / "run")
    if request.param == "memory":
        return f"memory:///test-{uuid.uuid4().hex[:12]}/run"
    return f"{request.getfixturevalue('bucket')}/run"


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> str:
    """The URI of a folder that is not there yet, in each kind of object store."""
    if request.param == "memory":
        return f"memory:///test-{uuid.uuid4().hex[:12]}/run"
    return f"{request.getfixturevalue('bucket')}/run"
