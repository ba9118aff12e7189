"""Work on many items that know nothing of each other, in processes of this machine or on a Ray cluster.

A worker that dies takes nothing with it: its item is given to another one, `ATTEMPTS` times in all, and every item has
one result however often it was begun. So what a worker writes has to be the same each time, in files that are complete
or not there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

from latentface.errors import LatentFaceError
from latentface.machine import cores, no_interrupt

Item = TypeVar("Item")
Result = TypeVar("Result")
Start = Callable[[], Callable[[Item], Result]]  # what a worker runs once: gives what it does with every item

ATTEMPTS = 3


@dataclass(frozen=True)
class Failure:
    """In place of the result of an item whose workers died, each time."""

    reason: str = f"the process at work on it died {ATTEMPTS} times (out of memory?)"


@dataclass(frozen=True)
class Engine:
    """Where the work is done."""

    processes: int = 0  # 0: one per core here; of a cluster, one per processor, or with `gpu` per GPU
    ray: str = ""  # empty: processes of this machine; local: a Ray cluster of this machine; else the address of one
    gpu: bool = False  # whether each process on a cluster needs one to itself


def run_items(
    items: Iterable[Item], start: Start[Item, Result], engine: Engine
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Every item once, with its result, in the order in which they are ready. Close it to end the workers.

    `start` and the items are pickled: functions have to be importable in a new process. Raises the LatentFaceError
    that a worker raises; any other end of a worker is its death. Here no item is taken before a process is free for
    it; on a cluster Ray keeps what is under way in bounds.
    """
    if engine.ray:
        from latentface.workers_ray import on_ray

        return on_ray(list(items), start, engine)
    return _in_processes(iter(items), start, engine.processes or cores())


def in_parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last possibly shorter."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


class _Begun(NamedTuple):
    item: Any
    attempt: int


class _Worker(Generic[Item, Result]):
    """A process with something to do."""

    def __init__(self, start: Start[Item, Result], first: _Begun) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(start, theirs), daemon=True)
        with no_interrupt():
            self.process.start()
        theirs.close()  # or its end would never show
        self.ready = False  # whether `start` is done
        self.begin(first)

    def begin(self, job: _Begun) -> None:
        self.job = job
        with suppress(OSError):  # it is dead, which shows when it is read from
            self.pipe.send(job.item)

    def receive(self) -> tuple[str, Any]:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return "dead", None

    def end(self, *, idle: bool = False) -> None:
        self.pipe.close()
        if not idle:
            self.process.terminate()
        self.process.join()


def _in_processes(
    items: Iterator[Item], start: Start[Item, Result], count: int
) -> Generator[tuple[Item, Result | Failure], None, None]:
    again: deque[_Begun] = deque()
    workers: dict[Any, _Worker[Item, Result]] = {}  # by pipe
    stillborn = 0  # in a row
    try:
        while True:
            while len(workers) < count and (job := _next(again, items)):
                worker = _Worker(start, job)
                workers[worker.pipe] = worker
            if not workers:
                return
            for pipe in wait(list(workers)):
                worker, job = workers[pipe], workers[pipe].job
                kind, value = worker.receive()
                if kind == "ready":
                    worker.ready, stillborn = True, 0
                elif kind == "refused":
                    raise value
                elif kind == "done":
                    if following := _next(again, items):
                        worker.begin(following)
                    else:
                        workers.pop(pipe).end(idle=True)
                    yield job.item, value
                else:
                    workers.pop(pipe).end()
                    stillborn += not worker.ready
                    if failure := _after_death(worker, stillborn, again):
                        yield job.item, failure
    finally:
        for worker in workers.values():
            worker.end()


def _next(again: deque[_Begun], items: Iterator[Item]) -> _Begun | None:
    if again:
        return again.popleft()
    for item in items:
        return _Begun(item, 1)
    return None


def _after_death(worker: _Worker, stillborn: int, again: deque[_Begun]) -> Failure | None:
    """Puts what it was at where the next worker finds it, or gives it up."""
    code, (item, attempt) = worker.process.exitcode, worker.job
    if stillborn == ATTEMPTS:
        raise LatentFaceError(
            f"worker processes die while they start (exit code {code}; out of memory?); what is finished is kept: run "
            "the same command again, with fewer processes if it happens again"
        )
    if worker.ready and attempt == ATTEMPTS:
        return Failure()
    print(f"a worker process died (exit code {code}): another one begins its work again", file=sys.stderr)
    again.append(_Begun(item, attempt + worker.ready))
    return None


def _serve(start: Start[Item, Result], pipe: Connection) -> None:
    """A worker's life. Whatever else is raised than a LatentFaceError ends it, with its traceback on stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaving no temporary files
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = start()
        pipe.send(("ready", None))
        for item in _received(pipe):
            pipe.send(("done", work(item)))
    except LatentFaceError as error:
        pipe.send(("refused", error))
    except BrokenPipeError:  # the parent has no use for it any more
        return


def _received(pipe: Connection) -> Iterator[Any]:
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        yield item


def _end_with_parent() -> None:
    """A worker whose parent was killed would work on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
