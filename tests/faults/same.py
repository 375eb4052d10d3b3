"""Compares what two runs left, by content: rows by key, figures within a tolerance, no times and no names that are drawn."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file

TOLERANCE = 1e-6  # of weights, scores and figures: CPU, fp32, one thread a worker
KEYS = ("part", "split", "user_id", "item_id", "timestamp_s")
# The report's page and figures show times; the mark of what was recorded names the store.
NOT_COMPARED = ("report/index.html", "report/figures", "recorded.json", ".lock")
# Of manifests and of metrics.json: times, and hashes of files that hold times or drawn names. A fingerprint stands for its config.
TIMES = ("seconds", "stages", "files", "config")
OF_AN_ATTEMPT = ("work", "own_seconds")  # in a manifest's facts: what the last attempt did, and how long it took


def differences(found: Path, expected: Path) -> list[str]:
    """Return a line for everything in which the artifacts of two outputs differ."""
    ours, theirs = _contents(found), _contents(expected)
    lines = [f"{name}: only in {(found if name in ours else expected).name}" for name in sorted(ours.keys() ^ theirs.keys())]
    lines += _unlike(ours, theirs)
    left = [path.name for path in found.iterdir() if "partial" in path.name or path.name == ".scratch"]
    return lines + [f"{name} was left behind" for name in left]


def rows_lost(found: Path, expected: Path) -> int:
    """Count the rows of every table that are missing, or there more often than they should be."""
    ours, theirs = (_keyed(folder) for folder in (found, expected))
    return sum((ours[name] - theirs[name]).total() + (theirs[name] - ours[name]).total() for name in ours.keys() | theirs.keys())


def steps_lost(found: Path, expected: Path) -> int:
    """Count the lines of the training log, one a logged step or validation, that are missing or doubled."""
    ours, theirs = (Counter(map(_place, _log(folder))) for folder in (found, expected))
    return (ours - theirs).total() + (theirs - ours).total()


def recorded(store: Path) -> dict[str, dict[str, Any]]:
    """Return what a SQLite store holds of each run, by the names of its parents and its own; values of metrics by key and step."""
    with contextlib.closing(sqlite3.connect(store)) as database:
        names = dict(database.execute("select run_uuid, name from runs"))
        parents = dict(database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
        runs: dict[str, dict[str, Any]] = {}
        for run, status in database.execute("select run_uuid, status from runs").fetchall():
            metrics = database.execute("select key, step, value from metrics where run_uuid = ?", (run,)).fetchall()
            params = database.execute("select key, value from params where run_uuid = ?", (run,)).fetchall()
            versions = database.execute("select count(*) from model_versions where run_id = ?", (run,)).fetchone()[0]
            twice = [place for place, count in Counter((key, step) for key, step, _ in metrics).items() if count > 1]
            path, parent = names[run], parents.get(run)
            while parent is not None:
                path, parent = f"{names[parent]}/{path}", parents.get(parent)
            runs[path] = {
                "status": status,
                "metrics": {f"{key} {step}": value for key, step, value in metrics},
                "params": {key: value for key, value in params if key not in ("output", "cluster")},
                "metrics twice": twice,
                "model versions": versions,
            }
        return runs


def differences_recorded(found: Path, expected: Path) -> list[str]:
    """Return a line for each run that two stores tell differently."""
    ours, theirs = recorded(found), recorded(expected)
    lines = [
        f"{name}: recorded only in {(found if name in ours else expected).parent.name}" for name in sorted(ours.keys() ^ theirs.keys())
    ]
    return lines + _unlike(ours, theirs)


def _contents(output: Path) -> dict[str, Any]:
    """Read every file below an output; the parts of a table are one table, in the order of its keys."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = str(path.relative_to(output))
        if name.startswith((*NOT_COMPARED, ".scratch")) or ".partial-" in name:
            continue
        if path.suffix == ".parquet":
            if path.name.startswith("part-"):
                name = str(path.parent.relative_to(output))
            before = [found[name]] if name in found else []
            found[name] = pa.concat_tables([*before, pq.read_table(path)], promote_options="permissive")
        else:
            found[name] = _content(path)
    return {name: _sorted(value) if isinstance(value, pa.Table) else value for name, value in found.items()}


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return {name: value.float().numpy() for name, value in load_file(path).items()}
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        if path.name in ("_manifest.json", "metrics.json"):
            content = {name: value for name, value in content.items() if name not in TIMES}
            for name in OF_AN_ATTEMPT:
                content.get("facts", {}).pop(name, None)
        return content
    return path.read_bytes()


def _sorted(table: pa.Table) -> pd.DataFrame:
    frame = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names})
    keys = [name for name in KEYS if name in frame]
    return frame.sort_values(keys, kind="stable", ignore_index=True) if keys else frame


def _unlike(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return for each name in both where its contents differ first."""
    first = {name: next(_walk(found[name], expected[name], ""), None) for name in sorted(found.keys() & expected.keys())}
    return [f"{name}: {line}" for name, line in first.items() if line is not None]


def _walk(found: Any, expected: Any, where: str) -> Iterator[str]:
    if isinstance(expected, pd.DataFrame):
        found, expected = found.to_dict("list"), expected.to_dict("list")
    if isinstance(expected, list) and found == expected:
        return  # the most, and quickly seen
    if isinstance(expected, dict) and isinstance(found, dict):
        if found.keys() != expected.keys():
            yield f"{where} has not the same names: {sorted(map(str, found.keys() ^ expected.keys()))[:5]}"
        for name in (name for name in expected if name in found):
            yield from _walk(found[name], expected[name], f"{where}/{name}")
    elif isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
        if found.shape != expected.shape or (abs(found - expected) > TOLERANCE).any():
            yield f"{where} differs"
    elif isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            yield f"{where} has {len(found)} entries, expected {len(expected)}"
        for number, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from _walk(one, other, f"{where}[{number}]")
    elif isinstance(expected, float) and isinstance(found, float):
        if not (math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(found) and math.isnan(expected))):
            yield f"{where} is {found}, expected {expected}"
    elif found != expected:
        yield f"{where} is {str(found)[:80]}, expected {str(expected)[:80]}"


def _keyed(output: Path) -> dict[str, Counter[tuple[Any, ...]]]:
    found: dict[str, Counter[tuple[Any, ...]]] = {}
    for path in output.rglob("*.parquet"):
        if path.name.startswith("part-") and ".partial-" not in str(path):
            keys = [name for name in KEYS if name in pq.read_schema(path).names]
            rows = zip(*(pq.read_table(path, columns=keys)[name].to_pylist() for name in keys), strict=True)
            found.setdefault(str(path.parent.relative_to(output)), Counter()).update(rows)
    return found


def _log(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "checkpoints" / "training_log.jsonl").read_text().splitlines()]


def _place(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["stage"], line["step"], "steps" in line
