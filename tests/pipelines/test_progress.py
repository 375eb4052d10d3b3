"""What a person who waits reads: lines that nothing in the data can end, colour or forge."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from ray.exceptions import RayTaskError

from components.errors import ConfigError, DataError
from pipelines import full
from pipelines.progress import Progress

FORGED = "Title\n\x1b[31merror: forged\x1b[0m\r\u2028\u202e\udcff"


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    assert line.isprintable()
    return line


def test_a_line_of_progress_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(3)
    progress.start("tables")
    assert only_line(capsys.readouterr().err) == "[1/3 tables     0 s] started"
    progress.say(f"column {FORGED} is not used")
    assert only_line(capsys.readouterr().err).endswith("] column Title  [31merror: forged [0m     is not used")


@pytest.mark.parametrize(("stages", "said"), [(0, ""), (1, "1 stage in 0 s\n"), (2, "2 stages in 0 s\n")])
def test_in_the_end_it_says_how_long_the_stages_took_that_ran(stages: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(3)
    for number in range(stages):
        progress.start(f"stage {number}")
    capsys.readouterr()
    progress.end()
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("_signals")
def test_an_error_that_quotes_data_stays_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object) -> None:
        raise DataError(f"u.item: expected a genre, got {FORGED}")

    monkeypatch.setattr(full, "run", read)
    assert full.main(["demo"]) == 1
    assert only_line(capsys.readouterr().err) == "error: u.item: expected a genre, got Title  [31merror: forged [0m    "


def fail_in_a_task() -> None:
    inside = RayTaskError("read", "60 lines\nof Ray", DataError("orders.csv.gz is damaged or cut off"), proctitle="x", pid=1, ip="1.2.3.4")
    raise inside.make_dual_exception_instance()


def fail_in_a_library() -> None:
    try:
        raise ConfigError("llm.path: no such block")
    except ConfigError as error:
        raise RuntimeError("a library's own error") from error


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize(
    ("fail", "said"),
    [(fail_in_a_task, "orders.csv.gz is damaged or cut off"), (fail_in_a_library, "llm.path: no such block")],
)
def test_the_first_line_of_an_error_says_why_however_deep_the_reason_hides(
    fail: Callable[[], None], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "run", lambda *_: fail())
    assert full.main(["demo"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == f"error: {said}"
