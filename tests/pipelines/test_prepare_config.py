"""What Prepare refuses before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from components.errors import ConfigError
from pipelines import prepare


@pytest.mark.parametrize(
    "options",
    [
        {"history_length": 0},
        {"min_history": -1},
        {"tag_width": 0},
        {"train_fraction": 0.9},
        {"valid_fraction": 0.0},
        {"max_bad_fraction": 1.0},
    ],
)
def test_an_impossible_configuration_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="prepare"):
        prepare.Config(**options)
