"""Which code made an artifact. Fingerprints know its version alone: who edits the code in between is told so."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAKERS = ("components", "pipelines", "tune")  # folders whose code computes what artifacts hold


@cache
def digest() -> str:
    """Return 16 hex digits of the source files' names and contents."""
    found = hashlib.sha256()
    for folder in MAKERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            found.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes() + b"\n")
    return found.hexdigest()[:16]
