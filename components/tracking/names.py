"""Keys, names and values as MLflow accepts them and logs may show them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from components.artifacts import as_plain
from components.errors import one_line
from components.storage import without_credentials

KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH, NAME_LENGTH = 250, 6000, 8000, 250  # the limits of MLflow 3


def clean(text: Any, limit: int) -> str:
    """Make one line of the text, without passwords of URLs, and cut it with a note."""
    shown = one_line(without_credentials(str(text)))
    note = f"... (cut, {len(shown)} characters)"
    return shown if len(shown) <= limit else shown[: limit - len(note)] + note


def safe_key(key: Any) -> str:
    """Turn any text into a key: letters, digits, `_ - . /` and blanks, and no path that means another ("ndcg@10" -> "ndcg_10")."""
    parts = re.sub(r"[^\w.\- /]", "_", str(key)).split("/")
    kept = "/".join(part for part in parts if part not in ("", ".", ".."))
    return kept[:KEY_LENGTH].rstrip("/") or "_"


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Flatten a (nested) dataclass or mapping to parameters, names joined by dots; a missing value stays away."""
    plain = as_plain(value)
    if not isinstance(plain, dict):
        return {} if plain is None else {safe_key(prefix): clean(plain, PARAM_LENGTH)}
    found: dict[str, str] = {}
    for name, item in plain.items():
        found |= flat(item, f"{prefix}.{name}" if prefix else name)
    return found


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep the values that are finite numbers, under safe keys."""
    numbers = {safe_key(name): _number(value) for name, value in values.items()}
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


def tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Clean tags."""
    return {safe_key(name): clean(value, TAG_LENGTH) for name, value in values.items()}


def digest(*parts: str) -> str:
    """Hash names into 24 hex digits."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:24]


def _number(value: Any) -> float:
    # A figure that is no number must not end a training run of hours.
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
