"""Importing a module does nothing: no file, process, thread, connection or environment read of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("import_probe.py")
QUIET = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
# Modules that do each kind of thing when they are imported: the probe must see all of it.
NAUGHTY = """
import os, subprocess, threading
os.environ.get("HOME")
open("made.txt", "w").close()
subprocess.run(["true"])
threading.Thread(target=print).start()
os.makedirs("folder")
"""


def probe(root: Path, folder: Path) -> dict[str, Any]:
    env = {**QUIET, "HOME": str(folder), "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, str(PROBE), str(root)], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return probe(ROOT, tmp_path_factory.mktemp("home"))


def test_importing_makes_no_file_process_thread_connection_or_environment_read(seen: dict[str, Any]) -> None:
    assert seen["done"] == []


def test_importing_leaves_no_thread_or_process_behind(seen: dict[str, Any]) -> None:
    assert (seen["threads"], seen["children"]) == ([], [])


def test_the_library_imports_neither_ray_nor_mlflow_nor_deepspeed(seen: dict[str, Any]) -> None:
    assert seen["loaded"] == []


def test_importing_starts_no_ray(seen: dict[str, Any]) -> None:
    assert not seen["ray_started"]


def test_the_probe_sees_what_a_module_does(tmp_path: Path) -> None:
    for package in ("components", "pipelines", "tune", "serving"):
        (tmp_path / "root" / package).mkdir(parents=True)
        (tmp_path / "root" / package / "__init__.py").write_text("")
    (tmp_path / "root" / "tune" / "naughty.py").write_text(NAUGHTY)
    (tmp_path / "root" / "components" / "early.py").write_text("import sys; sys.modules['mlflow'] = sys")
    (tmp_path / "home").mkdir()
    found = probe(tmp_path / "root", tmp_path / "home")
    kinds = {line.split(": ")[1].split(" ", 1)[0] for line in found["done"]}
    assert {line.split(":")[0] for line in found["done"]} == {"tune/naughty.py"}
    assert kinds == {"environment", "open", "subprocess.Popen", "thread", "os.mkdir"}
    assert found["loaded"] == ["mlflow"]
