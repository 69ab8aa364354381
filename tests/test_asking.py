"""A question that another thread asks: what is told of it, and when it is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from monitor.errors import OutOfReach
from monitor.inputs.asking import Asking
from tests.member import until


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as threads:
        yield threads


def answered(asking: Asking[int]) -> int:
    """What it answers, however long that takes."""
    found: list[int] = []

    def found_out() -> bool:
        answer = asking.answer()
        if answer is not None:
            found.append(answer)
        return bool(found)

    until(found_out, for_s=20.0)
    return found[0]


def counting() -> Callable[[], int]:
    numbers = iter(range(1, 100))
    return lambda: next(numbers)


def test_an_answer_is_told_once_and_asked_for_again_after_a_while(threads: ThreadPoolExecutor):
    asking = Asking(threads, counting(), every_s=3600.0)
    assert answered(asking) == 1
    assert [asking.answer() for _ in range(3)] == [None, None, None]
    asking.hurry()
    assert answered(asking) == 2
    asking.hurry()
    asking.rest()
    assert asking.answer() is None


def test_where_a_question_fails_that_is_raised_once_and_it_is_asked_again(threads: ThreadPoolExecutor):
    answers: Iterator[OutOfReach | int] = iter([OutOfReach("gone"), 7])

    def ask() -> int:
        answer = next(answers)
        if isinstance(answer, OutOfReach):
            raise answer
        return answer

    asking = Asking(threads, ask, every_s=0.0)
    with pytest.raises(OutOfReach):
        answered(asking)
    assert answered(asking) == 7


def test_what_was_forgotten_is_not_told_any_more(threads: ThreadPoolExecutor):
    asking = Asking(threads, counting(), every_s=0.0)
    assert asking.answer() is None
    asking.forget()
    assert answered(asking) == 2
