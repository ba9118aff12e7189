from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from latentface.overlap import ahead


def test_results_come_in_order():
    assert list(ahead(lambda n: n * n, range(50), depth=5, workers=4)) == [n * n for n in range(50)]


def test_nothing_is_made_of_nothing():
    assert list(ahead(str, [])) == []


def test_work_goes_on_before_it_is_asked_for_but_not_far():
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ahead(lambda n: n, items(), depth=3)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]


def test_it_runs_in_another_thread():
    assert threading.get_ident() not in set(ahead(lambda _: threading.get_ident(), range(3)))


def test_an_error_comes_where_its_result_would_have():
    def refuse_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = ahead(refuse_three, range(9), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
