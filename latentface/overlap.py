"""Work done in threads while the reader is busy with something else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, depth: int = 2, workers: int = 1
) -> Iterator[Result]:
    """`work(item)` of every item, in order, done in threads up to `depth` items before it is asked for.

    Two of these around a slow step make a pipeline: `ahead(write, map(compute, ahead(read, items)))` reads the next
    items and writes the last ones while the caller's thread computes. An error comes out where its result would have;
    what was begun by then is finished first. Memory is bounded by `depth` results and `workers` items.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
