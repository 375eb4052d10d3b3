"""What `make bench` makes of the scripts that it runs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FOUND = """\
print("for the reader")
print('[{"subject": "training", "unit": "samples/s", "ours": 300.0, "peers": {"fast": 100.0, "absent": "not installed"},'
      ' "goals": {"fast": 2.0}, "floor": 1200.0, "notes": "AUC .8"}]')
"""
ROW = "| training | 300 samples/s | fast: 100 (3.00 x); absent: not installed | 2 x fast | 25% |"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("all", "outcome"):  # Trio, which another test may have imported, brings an "outcome" of its own
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("all")


def found(bench: ModuleType, folder: Path, script: str, seconds: float = 20.0) -> str:
    (folder / "one.py").write_text(script)
    return bench.table([("one", bench.run(bench.Script("one", seconds), folder, None))]).splitlines()[2]


def test_what_a_script_found_is_a_row_with_ratios_goals_and_the_share_of_the_peak(bench: ModuleType, tmp_path: Path) -> None:
    assert found(bench, tmp_path, FOUND) == ROW


def test_what_has_no_rate_has_no_ratio(bench: ModuleType, tmp_path: Path) -> None:
    assert (
        found(bench, tmp_path, FOUND.replace("300.0", '"not run"'))
        == "| training | not run | fast: 100; absent: not installed | 2 x fast | - |"
    )


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("raise SystemExit(3)", "failed with exit code 3"),
        ("print('no table')", "its last line is no list of outcomes"),
        ("", "its last line is no list of outcomes"),
        ("print('[{\"subject\": 1}]')", "its last line is no list of outcomes"),
    ],
)
def test_a_script_that_fails_is_one_row_that_says_so(bench: ModuleType, tmp_path: Path, script: str, says: str) -> None:
    assert found(bench, tmp_path, script).startswith(f"| `one.py` | {says}")


def test_a_script_that_takes_too_long_is_ended(bench: ModuleType, tmp_path: Path) -> None:
    assert found(bench, tmp_path, "import time; time.sleep(60)", seconds=0.3) == "| `one.py` | took more than 0 s | | | |"


def test_a_script_that_is_not_there_is_named(bench: ModuleType, tmp_path: Path) -> None:
    assert bench.run(bench.Script("gone", 1.0), tmp_path, None) == "gone.py is not there"


def test_a_failing_script_leaves_the_rows_of_the_others(bench: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(FOUND)
    (tmp_path / "bad.py").write_text("1 / 0")
    rows = bench.table([(name, bench.run(bench.Script(name, 20.0), tmp_path, None)) for name in ("bad", "good")]).splitlines()
    assert rows[2:] == [ROW, "| `bad.py` | failed with exit code 1 | | | |"]


def test_only_what_stands_between_the_marks_is_rewritten(bench: ModuleType) -> None:
    page = f"# Title\n\n{bench.BEGIN}\nold\n{bench.END}\n\nmore\n"
    once = bench.rewritten(page, "| new |")
    assert once == f"# Title\n\n{bench.BEGIN}\n| new |\n{bench.END}\n\nmore\n"
    assert bench.rewritten(once, "| new |") == once


@pytest.mark.parametrize("page", ["", "{begin}", "{end}\n{begin}", "{begin}\n{begin}\n{end}", "{begin}\n{end}\n{end}"])
def test_a_page_without_one_place_for_the_table_is_refused(bench: ModuleType, page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        bench.rewritten(page.format(begin=bench.BEGIN, end=bench.END), "")


def test_the_readme_has_a_place_for_the_table(bench: ModuleType) -> None:
    assert bench.rewritten((bench.ROOT / "README.md").read_text(), "")
