"""What is installed is what was locked: every package pinned, every file known by its hash."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.contracts import locks

# Below these, reading weights or a page opened elsewhere could run a stranger's code (CVE-2025-32434, CVE-2025-62593, CVE-2026-27482).
SAFE_FROM = {"torch": "2.10", "transformers": "5.3.0", "ray": "2.54", "mlflow": "3.15"}


def locked() -> dict[str, str]:
    (torch,) = locks.torch().specifier
    return {**locks.hashed("requirements.lock"), "torch": torch.version}


def test_every_package_is_pinned_and_every_file_of_it_has_its_hash() -> None:
    run, develop = locks.hashed("requirements.lock"), locks.hashed("requirements-dev.lock")
    assert len(run) > 100
    assert run.keys().isdisjoint(develop), "a package is locked in one place"


def test_torch_alone_is_pinned_without_a_hash_for_its_build_depends_on_the_machine() -> None:
    (pin,) = locks.torch().specifier
    assert (locks.torch().name, pin.operator) == ("torch", "==")
    assert "+" not in pin.version, "a local build would be found on one machine alone"
    assert not {name for name in locks.hashed("requirements.lock") if name.startswith(("torch", "nvidia-", "cuda-", "triton"))}


@pytest.mark.parametrize("extra", [None, "aws", "dev"])
def test_everything_that_the_project_asks_for_is_locked_at_a_version_it_takes(extra: str | None) -> None:
    versions = locked() | (locks.hashed("requirements-dev.lock") if extra == "dev" else {})
    lacking = [str(one) for one in locks.asked(extra) if not one.specifier.contains(versions.get(locks.plain(one.name), "0"))]
    assert lacking == []


def test_what_builds_packages_is_locked_too() -> None:
    (builder,) = (Requirement(line) for line in locks.project()["build-system"]["requires"])
    assert builder.specifier.contains(locked()[builder.name])


@pytest.mark.parametrize("name", SAFE_FROM)
def test_no_version_with_a_known_hole_can_be_installed(name: str) -> None:
    (asked,) = (one for one in locks.asked() if one.name == name)
    lowest = next(bound.version for bound in asked.specifier if bound.operator == ">=")
    assert Requirement(f"x>={SAFE_FROM[name]}").specifier.contains(lowest)


def test_what_is_installed_here_is_what_is_locked() -> None:
    versions = locked() | locks.hashed("requirements-dev.lock")
    installed = {locks.plain(one.name): one.version.partition("+")[0] for one in metadata.distributions()}
    assert {name: version for name, version in installed.items() if versions.get(name, version) != version} == {}


def test_the_installer_takes_no_file_without_its_hash_and_fetches_nothing_to_build_with() -> None:
    script = (locks.ROOT / "deploy" / "install.sh").read_text()
    installs = [line for line in script.splitlines() if "pip install" in line]
    assert len(installs) == 3
    assert all("--no-deps --require-hashes" in line for line in installs[:2])
    assert "--no-build-isolation" in installs[1]
    assert installs[2].endswith('"$here/requirements-torch.lock"')
