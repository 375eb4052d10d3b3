"""One run owns an output folder at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from components.errors import ConfigError, OutputBusyError, TandemError
from pipelines import lock
from pipelines.lease import leased
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
            pytest.raises(OutputBusyError, match=rf"out is in use by process {owner.pid} on .* since .* UTC; wait for it \(--wait\) or"),
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
            assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_what_an_owner_started_does_not_keep_the_folder(tmp_path: Path) -> None:
    with other_process(HOLD_WITH_CHILD, tmp_path) as (owner, child):
        try:
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)
            os.kill(int(child), 0)  # still there
            with owned(str(tmp_path)):
                assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_folder_is_made_owned_and_free_again(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "demo"
    with owned(str(output)):
        assert f"process {os.getpid()} on" in (output / ".lock").read_text()
        with pytest.raises(OutputBusyError), owned(str(output)):
            pass
    with owned(str(output)):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # refused to root, too
    with (
        pytest.raises(ConfigError, match=f"--output {tmp_path}: expected a folder that can be .* written, Is a directory"),
        owned(str(tmp_path)),
    ):
        pytest.fail("owned without a lock")


def test_a_failed_run_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"), owned(str(tmp_path)):
        raise RuntimeError("broken")
    with owned(str(tmp_path)):
        pass


def test_a_longer_name_of_an_earlier_owner_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on " + "a" * 100)
    with owned(str(tmp_path)):
        assert "aaa" not in (tmp_path / ".lock").read_text()


def test_a_run_that_waits_says_for_whom_and_goes_on_when_the_owner_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with other_process(HOLD, tmp_path) as (owner, _):
        threading.Timer(0.3, owner.kill).start()
        with owned(str(tmp_path), wait=True):
            assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
    said = capsys.readouterr().err
    assert said.count(f"waiting: {tmp_path} is in use by process {owner.pid} on") == 1


def test_an_object_store_is_locked_too(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "leased", partial(leased, lease_s=1.0))
    with (
        owned(f"{bucket}/run"),
        pytest.raises(OutputBusyError, match=f"{bucket}/run is in use by process {os.getpid()} on .* since"),
        owned(f"{bucket}/run"),
    ):
        pytest.fail("two runs own one folder")
    with owned(f"{bucket}/run"):
        pass


def test_a_bucket_that_is_not_there_is_named(s3: dict[str, str]) -> None:
    with (
        pytest.raises(TandemError, match=r"a store that can be written at s3://no-such-bucket/run/.lock: .*does not exist"),
        owned("s3://no-such-bucket/run"),
    ):
        pytest.fail("a run without a place for its output")
