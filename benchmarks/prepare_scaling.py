"""Ten times the interactions: how much longer preparing them takes, and how much more memory the driver needs.

python benchmarks/prepare_scaling.py [--rows 200000]

Each size runs in a process of its own with a Ray of its own. Users and items are the same in both, since the driver
holds these; memory is the driver's peak (resident set) beyond what it had before the stage began.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

USERS, ITEMS = 5_000, 2_000
PART_ROWS = 100_000
DAY_S = 86_400


def write(folder: Path, rows: int) -> None:
    """Write interactions at random, in parts."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number, start in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - start)
        part = pd.DataFrame(
            {
                "user_id": random.integers(USERS, size=count),
                "item_id": random.integers(ITEMS, size=count),
                "rating": random.integers(1, 6, count),
                "timestamp": 1_000_000_000 + random.integers(3_000 * DAY_S, size=count),
            }
        )
        part.to_parquet(folder / f"part-{number:04}.parquet")


def measure(folder: str, rows: int) -> dict[str, float]:
    """Prepare that many interactions; return seconds and the driver's memory in MiB."""
    from components.datasets.tabular import Tabular
    from pipelines import cluster, prepare
    from pipelines.progress import Progress
    from pipelines.stage import StageContext

    write(Path(folder) / "rows", rows)
    tables = Tabular(Tabular.Config(interactions="rows")).read(folder)
    cluster.connect(cluster.Config())
    output = Path(folder) / "tables"
    output.mkdir()
    facts: dict[str, Any] = {}
    before_kib, started_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    prepare.run(StageContext(folder, str(output), "0", Progress(1), lambda *_: None, facts), tables, prepare.Config())
    seconds = time.monotonic() - started_s
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, "driver_mib": (peak_kib - before_kib) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000, help="interactions of the smaller run")
    rows = parser.parse_args().rows
    found: list[dict[str, float]] = []
    for size in (rows, 10 * rows):
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as process:
            found.append(process.apply(measure, (folder, size)))
    one, ten = found
    ratios = {"time": ten["seconds"] / one["seconds"], "driver_mib_more": ten["driver_mib"] - one["driver_mib"]}
    print(json.dumps({"runs": found, "ten times the rows": ratios}, indent=1))


if __name__ == "__main__":
    main()
