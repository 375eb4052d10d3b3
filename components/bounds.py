"""Bounds of numbers in configurations: an error names the key, what was expected and what was got."""

from __future__ import annotations

from collections.abc import Mapping

from components.errors import ConfigError

MAX_SEED = 2**32 - 1  # numpy's older generators, which optuna uses, take no more


def require_at_least(least: float, values: Mapping[str, float]) -> None:
    """Raise ConfigError for the first value, by its key, that is lower."""
    for key, value in values.items():
        if not value >= least:
            raise ConfigError(f"{key}: expected {least} or more, got {value}")


def require_above(bound: float, values: Mapping[str, float]) -> None:
    """Raise ConfigError for the first value, by its key, that is not higher."""
    for key, value in values.items():
        if not value > bound:
            raise ConfigError(f"{key}: expected more than {bound}, got {value}")


def require_seed(values: Mapping[str, int]) -> None:
    """Raise ConfigError for the first value, by its key, that is no seed."""
    for key, value in values.items():
        if not 0 <= value <= MAX_SEED:
            raise ConfigError(f"{key}: expected 0 to {MAX_SEED}, got {value}")
