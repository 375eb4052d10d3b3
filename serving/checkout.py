"""Where events and registered models lie unless the endpoint is told: below `runs/` of the checkout that it is started from."""

from __future__ import annotations

from pathlib import Path

from components.errors import ConfigError

ROOT = Path(__file__).parent.parent
RAYS_COPIES = "runtime_resources"  # the folder where Ray keeps working directories for as long as they are used


def runs(expected: str, root: Path = ROOT) -> Path:
    """Return the folder; raises ConfigError with what is `expected` instead where it would be removed or replaced with the code."""
    if (root / "pyproject.toml").is_file() and RAYS_COPIES not in root.parts:
        return root / "runs"
    raise ConfigError(f"{expected} where the code, at {root}, is no checkout")
