"""The lock files, as pip reads them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ENTRY = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)")


def hashed(name: str) -> dict[str, str]:
    """Return the versions of a lock file by package; fails on an entry that is not pinned or has no hash."""
    joined = re.sub(r"\s*\\\n\s*", " ", (ROOT / name).read_text())
    entries = [ENTRY.fullmatch(line) for line in joined.splitlines()]
    assert None not in entries, [line[:80] for line, entry in zip(joined.splitlines(), entries, strict=True) if entry is None]
    return {entry["name"]: entry["version"] for entry in entries if entry}


def torch() -> Requirement:
    """Return the one package that is pinned without a hash."""
    (line,) = (ROOT / "requirements-torch.lock").read_text().splitlines()
    return Requirement(line)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def asked(extra: str | None = None) -> list[Requirement]:
    """Return what pyproject.toml asks for: to run, or for an extra."""
    table = project()["project"]
    return [Requirement(line) for line in (table["optional-dependencies"][extra] if extra else table["dependencies"])]


def plain(name: str) -> str:
    """Return a package's name as the locks write it."""
    return re.sub(r"[-_.]+", "-", name).lower()
