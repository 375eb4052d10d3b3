"""One run owns an output folder at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from components.errors import OutputBusyError
from pipelines.lock import owned

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import sys, time; from pipelines.lock import owned\nwith owned(sys.argv[1]): print('held', flush=True); time.sleep(60)"
# Holds the lock and starts a process of its own, as Ray does, that lives on when its parent is killed.
HOLD_WITH_CHILD = (
    "import subprocess, sys, time; from pipelines.lock import owned\n"
    "with owned(sys.argv[1]):\n"
    "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], close_fds=False)\n"
    "    print(child.pid, flush=True); time.sleep(60)\n"
)


@contextmanager
def other_process(program: str, output: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a program until it has the lock; it is dead afterwards."""
    process = subprocess.Popen([sys.executable, "-c", program, str(output)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_a_second_run_is_refused_and_told_who_owns_the_folder(tmp_path: Path) -> None:
    with other_process(HOLD, tmp_path / "out") as (owner, _):
        with (
            pytest.raises(OutputBusyError, match=f"out is in use by process {owner.pid}; wait for it or choose another"),
            owned(str(tmp_path / "out")),
        ):
            pytest.fail("two runs own one folder")
        with owned(str(tmp_path / "other")):
            pass


def test_a_busy_folder_has_its_own_exit_code() -> None:
    assert OutputBusyError.exit_code == 75


def test_a_killed_owner_leaves_the_folder_free(tmp_path: Path) -> None:
    with other_process(HOLD, tmp_path) as (owner, _):
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        with owned(str(tmp_path)):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_what_an_owner_started_does_not_keep_the_folder(tmp_path: Path) -> None:
    with other_process(HOLD_WITH_CHILD, tmp_path) as (owner, child):
        try:
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)
            os.kill(int(child), 0)  # still there
            with owned(str(tmp_path)):
                assert (tmp_path / ".lock").read_text() == str(os.getpid())
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_folder_is_made_owned_and_free_again(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "demo"
    with owned(str(output)):
        assert (output / ".lock").read_text() == str(os.getpid())
        with pytest.raises(OutputBusyError), owned(str(output)):
            pass
    with owned(str(output)):
        pass


def test_a_failed_run_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), owned(str(tmp_path)):
        raise RuntimeError("broken")
    with owned(str(tmp_path)):
        pass


def test_a_longer_process_number_of_an_earlier_owner_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("123456789123")
    with owned(str(tmp_path)):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_an_object_store_is_not_locked() -> None:
    with owned("memory://bucket/lock-test"), owned("memory://bucket/lock-test"):
        assert not fsspec.filesystem("memory").exists("/bucket/lock-test/.lock")
