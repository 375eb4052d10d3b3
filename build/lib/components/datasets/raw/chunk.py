"""A run of rows of one file, as read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class RawChunk:
    """Consecutive rows of a file. Row numbers count from 1; those of a text file are line numbers, its header included."""

    path: str
    first_row: int
    columns: pa.RecordBatch

    def frame(self, values: Mapping[str, Any]) -> pd.DataFrame:
        """Put canonical columns beside `file` and `row`, which lead every error report back to the raw data."""
        rows = np.arange(self.first_row, self.first_row + self.columns.num_rows, dtype=np.int64)
        file = pd.Series(PurePosixPath(self.path).name, index=range(len(rows)), dtype="str")
        return pd.DataFrame({**values, "file": file, "row": rows})
