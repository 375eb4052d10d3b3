"""SECURITY.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    promises = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ") and "`" in line]
    assert len(promises) > 10
    for line in promises:
        named = re.findall(r"`(\w+/[\w/]+\.py)`", line.split(" | ")[-1])
        assert named, line
        assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []
