"""The scored rows that policies are fitted and judged on: columns of a score table as plain arrays."""

from __future__ import annotations

import pandas as pd

from components.errors import DataError
from components.routing.router import COLUMNS
from components.routing.signals import Array

NEEDED = ("user_id", "timestamp_s", "label", "p_llm", *COLUMNS)


def plain_rows(frame: pd.DataFrame) -> dict[str, Array]:
    """Return the columns NEEDED, users as numbers from 0; raises DataError where one is missing or there is no row."""
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise DataError(f"score table: expected the columns {', '.join(NEEDED)}; {', '.join(missing)} missing")
    if frame.empty:
        raise DataError("score table: expected rows of valid and test, got a split without rows")
    rows: dict[str, Array] = {name: frame[name].to_numpy() for name in NEEDED}
    # Ids become numbers: text would be copied into every trial of a search.
    rows["user_id"] = pd.factorize(frame["user_id"])[0]
    return rows
