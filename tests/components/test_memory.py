"""Kept memory, counted in page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
from components.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    held = [bytearray(4 << 20) for _ in range(8)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_step_gets_the_memory_that_the_last_one_freed() -> None:
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "return")
    )
    page = 4096
    assert kept < (4 << 20) / page  # less than one allocation of eighty
    assert returned > 10 * kept
