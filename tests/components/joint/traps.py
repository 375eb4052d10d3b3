"""What an attacker would put into a file of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Trap:
    """Creates a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)
