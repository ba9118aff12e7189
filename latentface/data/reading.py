"""Batches that other processes read: what each of them is at, and what its death or a lack of memory means."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler, get_worker_info

from latentface.data.batches import LatentBatch, LatentSample, SampleKey
from latentface.data.cache import Blob, fetched_ahead
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.remote_stores import RemotePack, RemoteTree
from latentface.errors import LatentFaceError

DRAWN_AHEAD = 2  # batches for each worker, PyTorch's default
MORE_SHARED_MEMORY = "give --workers 0 or a smaller --batch_size, or a container more of it (docker run --shm-size=8g)"
REMEDIES = {
    "Killed": "if memory ran out, give fewer --workers (0: none) or a smaller --batch_size",
    "Bus error": f"if shared memory ran out, {MORE_SHARED_MEMORY}; if files of the dataset became shorter, write them "
    "again",
}


def load_batches(
    dataset: NestedLatentWiderFaceDataset, collate: Callable[[list[LatentSample]], Any], workers: int, **options: Any
) -> DataLoader:
    """A DataLoader whose `workers` leave signals to this process; to be read inside `deaths_explained`.

    What comes by a network is fetched ahead of them, here.
    """
    if isinstance(dataset.store, (RemotePack, RemoteTree)):
        batches = options.pop("batch_sampler", None) or BatchSampler(
            SequentialSampler(dataset), options.pop("batch_size"), drop_last=False
        )
        options["batch_sampler"] = FetchedAhead(batches, dataset, dataset.store, DRAWN_AHEAD * workers)
    if not workers:
        return DataLoader(dataset, collate_fn=collate, **options)
    return Loader(
        Watched(dataset, workers), collate_fn=Shared(collate), num_workers=workers, worker_init_fn=_leave_signals,
        **options,
    )  # fmt: skip


@dataclass(frozen=True)
class FetchedAhead(Sampler):
    """Batches of keys, while threads bring what the next ones will be read from into the cache."""

    batches: BatchSampler | Sampler
    dataset: NestedLatentWiderFaceDataset
    store: RemotePack | RemoteTree
    late: int  # batches that are handed out before they are read

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return fetched_ahead(self.batches, self._blobs, self.store.cache, self.late)

    def _blobs(self, keys: list[int | SampleKey]) -> list[Blob]:
        return [self.store.blob(*self.dataset.drawn(key)) for key in keys]


class Loader(DataLoader):
    """A DataLoader whose iterators are known, so that their workers can be let go whatever happens."""

    def __iter__(self) -> Any:
        try:
            iterator = super().__iter__()
        except OSError as error:  # semaphores lie there too
            raise LatentFaceError(
                f"the processes that read latents cannot be started ({error.strerror}): {MORE_SHARED_MEMORY}"
            ) from error
        _reading[iterator] = self.dataset  # type: ignore[assignment]
        return iterator


class Watched(Dataset):
    """A dataset whose readers note in memory that outlives them what they take up."""

    def __init__(self, dataset: NestedLatentWiderFaceDataset, workers: int) -> None:
        self.dataset = dataset
        self.notes = multiprocessing.RawArray("q", 2 * workers)  # process, index of the picture; of each worker

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | SampleKey) -> LatentSample:
        worker = get_worker_info()
        if worker is not None:
            index = key[0] if isinstance(key, tuple) else key
            self.notes[2 * worker.id : 2 * worker.id + 2] = [os.getpid(), index]
        return self.dataset[key]

    def taken_up_by(self, process: int) -> str:
        """The picture that a process took up last, empty where it is none of ours."""
        notes = dict(zip(self.notes[::2], self.notes[1::2], strict=True))
        return self.dataset.pictures[notes[process]].name if process in notes else ""


_DEATH = r"DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (?:is killed by signal: )?([\w ]*)"  # process, what happened

_reading: weakref.WeakKeyDictionary[Any, Watched] = weakref.WeakKeyDictionary()  # of an iterator with workers


@dataclass(frozen=True)
class Shared:
    """Collates in shared memory. PyTorch would move batches there itself, but where it finds no room wait for ever."""

    collate: Callable[[list[LatentSample]], LatentBatch | Sequence[LatentBatch]]

    def __call__(self, samples: list[LatentSample]) -> LatentBatch | Sequence[LatentBatch]:
        batches = self.collate(samples)
        try:
            for batch in [batches] if isinstance(batches, LatentBatch) else batches:
                batch.share_memory()
        except RuntimeError as error:
            names = ", ".join(sample.name for sample in samples)
            reason = str(error).partition("\n")[0].rpartition(": ")[2]
            raise LatentFaceError(
                f"no shared memory for a batch of {names} ({reason}): {MORE_SHARED_MEMORY}"
            ) from error
        return batches


def _leave_signals(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, SIGTERM often every one of a job: the main one decides for all."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@contextmanager
def deaths_explained() -> Iterator[None]:
    """PyTorch's error about a dead worker, which may come up anywhere in the block, as one line with the picture."""
    try:
        yield
    except RuntimeError as error:
        texts = (str(error), str(error.__cause__))  # the cause knows the signal, where there is one
        found = [match for text in texts if (match := re.search(_DEATH, text))]
        if not found:
            raise
        names = [name for watched in _reading.values() if (name := watched.taken_up_by(int(found[0][1])))]
        at = f" at or after picture {names[0]}" if names else ""
        what = found[-1][2].strip()
        raise LatentFaceError(
            f"a process that reads latents died{at} ({what}): {REMEDIES.get(what, '--workers 0 shows why')}"
        ) from error
    finally:
        for iterator in list(_reading):  # PyTorch ends workers when it is collected, which an error may prevent
            iterator._shutdown_workers()
