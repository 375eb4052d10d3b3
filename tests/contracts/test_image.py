"""The image: pinned, installed from the locks, the code alone, no root. (Nothing here builds it: that takes a Docker.)"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from packaging.specifiers import SpecifierSet

from pipelines import VERSION
from tests.contracts import locks

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "Dockerfile"
TEXT = FILE.read_text()
STEPS = [tuple(line.split(" ", 1)) for line in re.sub(r"\\\n", "", TEXT).splitlines() if line and not line.startswith("#")]
IGNORED = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def test_both_stages_start_from_one_image_known_by_its_digest() -> None:
    bases = {re.sub(r" AS \w+$", "", base) for base in arguments("FROM")}
    (base,) = bases
    found = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert found
    assert SpecifierSet(locks.project()["project"]["requires-python"]).contains(found[1])
    assert found[1].startswith("3.11."), "the locks are made for it"


def test_packages_come_from_the_locks_alone() -> None:
    commands = " && ".join(arguments("RUN"))
    assert "sh deploy/install.sh /opt/tandem/bin/python requirements.lock &&" in f"{commands} &&"
    installs = re.findall(r"pip install [^&]*", commands)
    assert [shlex.split(line)[-1] for line in installs] == ["."]
    assert all("--no-deps" in line and "--no-build-isolation" in line for line in installs)
    assert not re.search(r"\b(curl|wget|apt-get|apt|sudo)\b|\|\s*(ba)?sh\b", commands)


def test_what_is_copied_exists_and_nothing_else_reaches_the_build() -> None:
    assert "ADD" not in dict(STEPS)
    copied = [source for rest in arguments("COPY") if not rest.startswith("--from=packages ") for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert IGNORED[1] == "*", "everything stays out that is not named"
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == {source.rstrip("/") for source in copied}


def test_it_runs_as_a_user_who_owns_nothing_of_it() -> None:
    names = [name for name, _ in STEPS]
    assert names[-1] == "USER"
    assert arguments("USER") == ["1000:1000"]  # by number, or Kubernetes could not tell that it is not root
    assert not [rest for rest in arguments("COPY") if "--chown" in rest or "--chmod" in rest]
    assert not re.search(r"(?i)token|secret|password|api_key", " ".join(arguments("ENV")))


def test_its_name_tells_the_version() -> None:
    assert f"-t REGISTRY/tandem:{VERSION} ." in TEXT
