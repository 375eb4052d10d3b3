"""Configurations as fingerprints and as JSON: equal ones are told to be equal, different ones different, in every process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import artifacts
from components.errors import ConfigError


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Outer:
    count: int = 3
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    limit: float | None = None
    colour: Colour = Colour.RED
    rows: tuple[int, int] | None = None
    flag: bool = False

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"count: expected 0 or more, got {self.count}")


ROOT = Path(__file__).resolve().parents[2]
OUTER = Outer()
CHANGES = (
    {"count": 4},
    {"inner": Inner(rate=0.25)},
    {"inner": Inner(names=("a", "b"))},
    {"several": (Inner(),)},
    {"limit": 0.0},
    {"rows": (1, 2)},
    {"flag": True},
)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_fingerprint_changes_with_any_value(change: dict[str, object]) -> None:
    assert artifacts.fingerprint(replace(OUTER, **change)) != artifacts.fingerprint(OUTER)


def test_a_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    program = "from components import artifacts; print(artifacts.fingerprint('0.1.0', {'b': (1, 2.5), 'a': None}, ['x', True]))"
    seeds = [{"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)} for seed in ("1", "2")]
    found = {subprocess.check_output([sys.executable, "-c", program], env=env, cwd=tmp_path, text=True, timeout=60) for env in seeds}
    assert found == {artifacts.fingerprint("0.1.0", {"a": None, "b": (1, 2.5)}, ["x", True]) + "\n"}


def test_a_fingerprint_is_the_sha256_of_sorted_json() -> None:
    # printf '[{"a": [1, null], "b": "x"}]' | sha256sum
    assert artifacts.fingerprint({"b": "x", "a": (1, None)}) == "05f691b7307f5703"


def test_parts_of_a_fingerprint_do_not_run_together() -> None:
    assert artifacts.fingerprint("a", "bc") != artifacts.fingerprint("ab", "c")


def test_numbers_of_numpy_stay_numbers() -> None:
    assert artifacts.as_plain({"rows": np.int64(7), "mean": np.float32(0.5), "ok": np.bool_(True)}) == {"rows": 7, "mean": 0.5, "ok": True}


def test_nested_configurations_come_back_from_what_json_holds(tmp_path: Path) -> None:
    config = Outer(count=5, inner=Inner(0.25, ("x", "y")), several=(Inner(), Inner(1.0, ())), limit=None, rows=(3, 4), flag=True)
    artifacts.write_json(str(tmp_path / "config.json"), config)
    assert artifacts.from_plain(Outer, artifacts.read_json(str(tmp_path / "config.json"))) == config


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Outer,
        count=st.integers(0, 10**12),
        inner=st.builds(Inner, rate=st.floats(allow_nan=False), names=st.lists(st.text(), max_size=3).map(tuple)),
        limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        rows=st.none() | st.tuples(st.integers(), st.integers()),
    )
)
def test_every_configuration_comes_back_as_it_was(config: Outer) -> None:
    assert artifacts.from_plain(Outer, artifacts.as_plain(config)) == config


def test_a_configuration_that_comes_back_is_checked_again() -> None:
    with pytest.raises(ValueError, match="count: expected 0 or more, got -1"):
        artifacts.from_plain(Outer, {**artifacts.as_plain(OUTER), "count": -1})


def test_text_of_any_language_is_kept_readable_in_json(tmp_path: Path) -> None:
    artifacts.write_json(str(tmp_path / "note.json"), {"title": "Amélie 東京", "path": Path("a/b")})
    assert '"title": "Amélie 東京"' in (tmp_path / "note.json").read_text(encoding="utf-8")
    assert artifacts.read_json(str(tmp_path / "note.json")) == {"title": "Amélie 東京", "path": "a/b"}


def test_how_work_is_done_is_not_in_a_fingerprint_but_in_the_manifest() -> None:
    @dataclass(frozen=True)
    class Config:
        OPERATIONAL: ClassVar = ("actors",)
        actors: int = 1
        trials: int = 3

    assert artifacts.fingerprint(Config(), [Config()]) == artifacts.fingerprint(Config(actors=8), [Config(actors=2)])
    assert artifacts.fingerprint(Config()) != artifacts.fingerprint(Config(trials=4))
    assert artifacts.as_plain(Config())["actors"] == 1
