"""What the stages' own code takes without Ray: every function that their tasks call, one after the other in this process.

Work is counted in CPU seconds with one thread: beside other programs the figures stay what they are. Shared among all cores without
any loss, it would take `cpu_s / cores`: the time below which no orchestration can bring a stage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.datasets import checks
from components.features import split
from components.features.counts import Totals
from components.features.interactions import Directory, keys_inside, look, marked, scatter, settle
from components.features.sample_parts import Protocol, write_part
from components.features.store import fit_store
from components.features.tables import save_store
from components.llm.prompt_parts import write_prompts
from components.llm.prompt_tokens import PromptTokens
from components.types import Tables
from pipelines import prepare, prompts


class Spent:
    """CPU seconds of this process."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        started_s = time.process_time()
        yield
        self.cpu_s += time.process_time() - started_s


def prepared(tables: Tables, config: prepare.Config, folder: Path) -> float:
    """Prepare as the stage does, into `folder`; return CPU seconds. For data sets with clean ids and a split in time."""
    checks.check_interactions(next(tables.interactions[0].read()).head(100), tables.schema, None, time.time())  # imports
    spent = Spent()
    with spent.counted():
        users, items = (
            pd.concat([chunk for source in sources for chunk in source.read()], ignore_index=True).drop(columns=["file", "row"])
            for sources in (tables.users, tables.items)
        )
        known = pd.Index(items["item_id"])
        chunks = (chunk for source in tables.interactions for chunk in source.read())
        now_s, schema = time.time(), tables.schema
        blocks = [marked(chunk, checks.check_interactions(chunk, schema, known, now_s), schema) for chunk in chunks]
        seen = [look(block) for block in blocks]
        bounds = [bound for each in seen for bound in each.times_s or ()]
        times_s = min(bounds), max(bounds)
        files = sorted({name for each in seen for name in each.files})
        directory = Directory(*(pa.array(names, pa.string()) for names in (users["user_id"], items["item_id"], files)))
        buckets = 1 + sum(block.num_rows for block in blocks) // prepare.BUCKET_ROWS
        parts = [scatter(block, directory, buckets) for block in blocks]
        del blocks
        asked = (config.min_history, config.hide_same_second)
        settled = [settle(directory, tables.schema, (buckets, 1), times_s, *asked, *each) for each in zip(*parts, strict=True)]
        del parts
        counts = np.zeros(split.BINS, np.int64)
        for _, _, times in settled:
            counts[times.bins] += times.rows
        sizes = split.split_sizes(int(counts.sum()), config.train_fraction, config.valid_fraction)
        found = [split.bin_of_rank(counts, rank) for rank in (sizes[0], sizes[0] + sizes[1])]
        keys = pd.concat([keys_inside(rows, [number for number, _ in found], times_s, *asked) for rows, _, _ in settled])
        inside = split.time_bins(*times_s, keys["timestamp_s"].to_numpy())
        cuts = tuple(split.cut_at(keys.loc[inside == number], rank) for number, rank in found)
        protocol = Protocol(tables.schema, config.history_length, *asked, cuts)
        totals = Totals(len(users), len(items), tables.schema)
        for number, (rows, _, _) in enumerate(settled):
            totals.add(write_part(rows, directory, protocol, str(folder), number)[1])
        users, items = prepare._counted(users, items, totals)
        save_store(fit_store(tables.schema, users, items, totals.context, config.history_length, config.tag_width), str(folder))
    return spent.cpu_s


def prompted(tokens: PromptTokens, config: prompts.Config, seed: int, tables: Path, folder: Path) -> float:
    """Write the prompts of all parts as the stage does, into `folder`; return CPU seconds."""
    spent = Spent()
    with spent.counted():
        files = {name: sorted((tables / name).glob("*.parquet")) for name in split.SPLITS}
        rows = {name: sum(pq.read_metadata(file).num_rows for file in found) for name, found in files.items()}
        parts = prompts.drawn(rows, config)
        for name, found in files.items():
            own = {part: each for part, each in parts.items() if each.split == name}
            for number, file in enumerate(found):
                write_prompts(tokens, str(file), own, seed, str(folder), number)
    return spent.cpu_s
