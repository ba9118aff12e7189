"""Work in processes that may die: every item has one result, here and on a Ray cluster."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from latentface.errors import LatentFaceError
from latentface.workers import ATTEMPTS, Engine, Failure, run_items


def start(folder: str) -> Callable[[int], tuple[int, int]]:
    return partial(square, folder)


def square(folder: str, number: int) -> tuple[int, int]:
    """Kills its process with the first attempt at 5 and each attempt at 7; does not like 99."""
    with (Path(folder) / "begun").open("a") as log:
        log.write(f"{number}\n")
    if number == 7 or (number == 5 and begun(Path(folder))[5] == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 99:
        raise LatentFaceError("99 is not liked")
    return number * number, os.getpid()


def die_at_once() -> Callable[[int], int]:
    os._exit(3)


def begun(folder: Path) -> Counter[int]:
    return Counter(map(int, (folder / "begun").read_text().split()))


def run(numbers: range | list[int], folder: Path, engine: Engine) -> dict[int, object]:
    """Squares by number; every number has come once."""
    found: dict[int, object] = {}
    for number, result in run_items(numbers, partial(start, str(folder)), engine):
        assert number not in found
        found[number] = result if isinstance(result, Failure) else result[0]
    return found


def test_a_killed_worker_loses_and_doubles_nothing(where: str, tmp_path: Path) -> None:
    numbers = [n for n in range(40) if n != 7]
    assert run(numbers, tmp_path, Engine(2, where)) == {n: n * n for n in numbers}
    assert begun(tmp_path)[5] == 2


def test_an_item_that_kills_every_worker_is_given_up(where: str, tmp_path: Path) -> None:
    found = run([1, 7, 2], tmp_path, Engine(2, where))
    assert found == {1: 1, 2: 4, 7: Failure()}
    assert begun(tmp_path)[7] == ATTEMPTS == 3


def test_a_mistake_in_a_worker_is_the_callers(where: str, tmp_path: Path) -> None:
    with pytest.raises(LatentFaceError, match=r"^99 is not liked$"):
        run([99], tmp_path, Engine(1, where))


def test_only_the_dead_worker_is_replaced(tmp_path: Path) -> None:
    results = run_items([5, *range(10, 30)], partial(start, str(tmp_path)), Engine(2))
    assert len({result[1] for _, result in results if not isinstance(result, Failure)}) <= 3  # processes
    assert {n: times for n, times in begun(tmp_path).items() if times > 1} == {5: 2}


def test_workers_that_die_while_they_start(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(LatentFaceError, match=r"die while they start \(exit code 3; out of memory\?\)"):
        list(run_items([1, 2], die_at_once, Engine(1)))
    assert capfd.readouterr().err.count("a worker process died (exit code 3)") == 2


def test_no_item_is_taken_before_a_process_is_free(tmp_path: Path) -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(10, 10**9):
            taken = number - 9
            yield number

    with closing(run_items(numbers(), partial(start, str(tmp_path)), Engine(2))) as results:
        for done, _ in enumerate(results, 1):
            assert taken <= done + 2
            if done == 20:
                time.sleep(0.3)  # they have nothing to do meanwhile
                assert sum(begun(tmp_path).values()) <= 22
                break


def test_a_cluster_that_cannot_import_the_work(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(die_at_once, "__module__", "nowhere")
    monkeypatch.setitem(sys.modules, "nowhere", sys.modules[__name__])
    with pytest.raises(LatentFaceError, match=r"^--ray local: workers cannot be started there \(.*'nowhere'\); every"):
        list(run_items([1], die_at_once, Engine(1, "local")))


def test_an_address_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'latentface[ray]'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(LatentFaceError, match=r"^--ray 127\.0\.0\.1:1: no cluster there \(.*refused\); start it"):
        list(run_items([1], die_at_once, Engine(1, "127.0.0.1:1")))


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LatentFaceError, match=r"^--ray local: Ray is not installed: pip install 'latentface\[ray\]'$"):
        list(run_items([1], die_at_once, Engine(1, "local")))
