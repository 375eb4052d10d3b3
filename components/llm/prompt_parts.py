"""The parts of a table of prompts: which samples each one draws, and their prompts written. Imports neither torch nor transformers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import artifacts, storage
from components.features.part_file import open_part, write_rows
from components.features.sampling import uniform_hash
from components.llm.prompt_tokens import PromptTokens

BATCH_ROWS = 8_192  # encoded at once: more share their pieces, and take more memory


@dataclass(frozen=True)
class Part:
    """The samples of a split whose hash, uniform in [0, 1), is in [low, high): the same ones in every run, in any order of the rows."""

    split: str
    low: float
    high: float

    def holds(self, place: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (place >= self.low) & (place < self.high)


def write_prompts(encoder: PromptTokens, file: str, parts: Mapping[str, Part], seed: int, uri: str, number: int) -> Counter[str]:
    """Write the prompts of a file's samples as a part file, of this number, of each part below `uri`; return the rows of each.

    `parts` are those of the file's split. A sample of several parts is encoded once.
    """
    rows = Counter[str]()
    with contextlib.ExitStack() as stack:
        samples = pq.ParquetFile(stack.enter_context(storage.open_file(file)))
        writers: dict[str, pq.ParquetWriter] = {}
        for batch in samples.iter_batches(BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            place = uniform_hash(seed, *(table[name].to_numpy() for name in ("user_row", "item_row", "timestamp_s")))
            drawn = np.logical_or.reduce([part.holds(place) for part in parts.values()])
            encoded = encoder.encode(table.filter(pa.array(drawn)))
            for name, part in parts.items():
                held = encoded.filter(pa.array(part.holds(place[drawn])))
                if not held.num_rows:
                    continue
                if name not in writers:
                    writers[name] = stack.enter_context(open_part(artifacts.join(uri, name), number, held.schema))
                write_rows(writers[name], held)
                rows[name] += held.num_rows
    return rows
