"""`ray job submit --working-dir .` uploads the code, all of it and nothing else, by Ray's own packing."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("components", "pipelines", "serving", "tune")
NOT_CODE = (
    ".git/HEAD",
    ".venv/bin/python",
    ".venv-lock/known.txt",
    "data/u.data",
    "runs/demo/scores/part.parquet",
    ".env",
    "notes/token.txt",
)


def uploaded(folder: Path, package: Path) -> set[str]:
    create_package(str(folder), package, include_gitignore=True)
    with zipfile.ZipFile(package) as opened:
        return {name for name in opened.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What is uploaded of this project, in a folder where people work."""
    folder = tmp_path_factory.mktemp("upload") / "project"
    folder.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name)
    for name in (".rayignore", ".gitignore", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in (*NOT_CODE, "components/__pycache__/types.cpython-311.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("private")
    return uploaded(folder, folder.parent / "package.zip")


def test_every_file_of_every_package_is_uploaded(files: set[str]) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    if found.returncode:
        pytest.skip("no git repository that knows its files")
    assert {name for name in found.stdout.splitlines() if (ROOT / name).exists()} == files
    assert {"pipelines/full.py", "components/report/page.html", "serving/page/index.html"} <= files


def test_nothing_else_is(files: set[str]) -> None:
    assert {name.split("/")[0] for name in files} == set(PACKAGES)
    assert not [name for name in files if "__pycache__" in name]
