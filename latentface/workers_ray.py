"""`run_items` on a Ray cluster, by Ray Data: actors that start once, blocks of items that come back when done.

Ray begins a block again whose actor or machine died. Files that workers read and write have to be under the same path
on every machine of the cluster.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from latentface.errors import LatentFaceError
from latentface.workers import ATTEMPTS, Engine, Failure, Item, Result, Start

INSTALL = "pip install 'latentface[ray]'"
BLOCKS = 1000  # at most: what a block costs Ray is bounded, and a block is what is lost with a worker


class _Actor:
    """A worker. What goes in and out is pickled here, as Ray's own tables hold no objects."""

    def __init__(self, start: Start[Any, Any], folder: str) -> None:
        self.start, self.folder = start, folder

    @cached_property
    def work(self) -> Any:
        """With the first item, as Ray does not begin an actor again that fails before it."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise LatentFaceError(
                f"{self.folder}: not on all machines of the cluster ({error.strerror}); go where it is and start there"
            ) from error
        return self.start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        (number, item), *_ = map(pickle.loads, batch["item"])
        try:
            result = self.work(item)
        except LatentFaceError as error:
            result = error
        except Exception:
            traceback.print_exc()  # shown by Ray where the command was given, and in its logs
            raise
        return {"result": [pickle.dumps((number, result))]}


def on_ray(
    items: list[Item], start: Start[Item, Result], engine: Engine
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """See `run_items`."""
    if not items:
        return
    left = dict(enumerate(items))
    with _cluster(engine) as actors:
        for blocks in (min(BLOCKS, len(items)), len(items)):  # what a block took with it is tried by itself
            for number, result in _results(left, start, engine, min(actors, len(left)), blocks):
                item = left.pop(number)
                if isinstance(result, LatentFaceError):
                    raise result
                yield item, result
            if not left or blocks == len(items):
                break
    for item in left.values():
        yield item, Failure()


def _results(
    items: dict[int, Any], start: Start[Any, Any], engine: Engine, actors: int, blocks: int
) -> Iterator[tuple[int, Any]]:
    """Numbers and results; those of blocks that failed `ATTEMPTS` times are missing."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1
    context.actor_task_retry_on_errors = True
    context.enable_progress_bars = False
    rows = [{"item": pickle.dumps(item)} for item in items.items()]
    with warnings.catch_warnings():  # Ray 2.64 will not let us say how often, so it is not among our dependencies yet
        warnings.simplefilter("ignore", DeprecationWarning)
        results = ray.data.from_items(rows, override_num_blocks=min(blocks, len(rows))).map_batches(
            _Actor,
            fn_constructor_args=(start, str(Path.cwd())),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=int(engine.gpu),
            max_restarts=-1,
            max_task_retries=ATTEMPTS - 1,
        )
    try:
        for row in results.iter_rows():
            yield pickle.loads(row["result"])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise LatentFaceError(
            f"--ray {engine.ray}: workers cannot be started there ({reason}); every machine needs this package"
        ) from error


@contextmanager
def _cluster(engine: Engine) -> Iterator[int]:
    """Connects, unless the program is connected already; gives the number of actors to start."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")  # it shows a traceback for every worker that dies
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LatentFaceError(f"--ray {engine.ray}: Ray is not installed: {INSTALL}") from error
    ours = not ray.is_initialized()
    if ours:
        _connect(engine)
    try:
        yield engine.processes or max(1, int(ray.cluster_resources().get("GPU" if engine.gpu else "CPU", 1)))
    finally:
        if ours:
            ray.shutdown()


def _connect(engine: Engine) -> None:
    import ray

    local = {"num_cpus": engine.processes or None, "include_dashboard": False} if engine.ray == "local" else {}
    try:
        _knock(engine.ray)
        ray.init(address=engine.ray, logging_level="ERROR", **local)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise LatentFaceError(f"--ray {engine.ray}: no cluster there ({reason}); start it, or give local") from error


def _knock(address: str) -> None:
    """OSError where nobody listens at `host:port`, which Ray would take minutes to say."""
    host, _, port = address.rpartition("://")[2].partition(":")
    if port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=10):
            pass
