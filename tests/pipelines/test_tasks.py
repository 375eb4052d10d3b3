"""Plain tasks on a real, small Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import ray

from pipelines import tasks
from tests.pipelines.local_ray import local_ray

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with local_ray():
        yield


def test_results_come_in_the_order_of_the_arguments_and_references_are_looked_up() -> None:
    def late(number: int, word: str) -> str:
        time.sleep(0.2 if number == 0 else 0.0)
        return f"{word} {number}"

    word = ray.put("row")
    assert list(tasks.results(late, ((number, word) for number in range(3)))) == ["row 0", "row 1", "row 2"]
    assert list(tasks.results(late, [])) == []


@pytest.mark.parametrize("parts", [1, 3])
def test_each_part_of_a_result_can_be_asked_for_alone(parts: int) -> None:
    found = tasks.started_in_parts(lambda count: [[number] for number in range(count)], parts, parts)
    assert [ray.get(part) for part in found] == [[number] for number in range(parts)]


def test_what_a_task_raises_is_raised_by_whom_waits() -> None:
    def refuse() -> None:
        raise KeyError("no such row")

    with pytest.raises(KeyError, match="no such row"):
        list(tasks.results(refuse, [()]))
