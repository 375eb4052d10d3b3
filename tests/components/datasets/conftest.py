"""Real data beside the project, for those who have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from components.types import Source

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def shared_data() -> Callable[[str], str]:
    def folder(name: str) -> str:
        path = SHARED / name
        if not path.is_dir():
            pytest.skip(f"needs the real data in {path}")
        return str(path)

    return folder


@pytest.fixture
def whole() -> Callable[[tuple[Source, ...]], pd.DataFrame]:
    def read(sources: tuple[Source, ...]) -> pd.DataFrame:
        return pd.concat([chunk for source in sources for chunk in source.read()], ignore_index=True)

    return read
