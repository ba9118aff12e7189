"""Reading on the clock: a packed set beside the tree of `.npy` files, in batches of eight, in random order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from latentface.apps.bench_timing import Row, compare
from latentface.data.batches import stack
from latentface.data.packed import PackedStore
from latentface.data.stores import LatentStore, TreeStore

BATCH = 8
LEAST = {"int8": (8.0, 4.0), "float16": (4.0, 2.0)}  # what is hoped for: warm, cold


def reading_rows(tree: Path, packed: dict[str, Path], *, rounds: int, workers: int = 0) -> Iterator[Row]:
    """`tree` and `packed` (by dtype) are the same split. Whole latents warm and cold, then crops of half the side."""
    plain = TreeStore(tree / "latent")
    rate = PackedStore(next(iter(packed.values()))).rates[0]
    names = [name for name in plain.names() if plain.has(name, rate)][: 16 * BATCH]
    suffix = f", {workers} workers" if workers else ""
    stored = np.load(plain.path(names[0], rate), mmap_mode="r").dtype
    against = f"np.load of {stored} files"
    bytes_of_tree = sum(plain.path(name, rate).stat().st_size for name in names)
    for dtype, folder in packed.items():
        store = PackedStore(folder)
        where = {"workers": workers, "batch": BATCH, "latents": len(names)}
        disk = _bytes_of(store, rate) / bytes_of_tree * len(names) / sum(store.has(n, rate) for n in store.names())
        # The goals are set against float32; with workers the transfer between processes counts too.
        warm, cold = LEAST[dtype] if workers == 0 and stored == np.float32 else (None, None)
        ours, theirs = _reader(store, names, rate, workers), _reader(plain, names, rate, workers)
        found = compare(ours, theirs, rounds=rounds)
        facts = where | {"disk_against_tree": disk, "latents_per_second": len(names) / found.seconds}
        yield Row(f"reading {dtype}, page cache warm{suffix}", against, found, warm, facts)
        files = [folder / shard.file for shard in store.info.shards] + [plain.path(name, rate) for name in names]
        chilled = compare(ours, theirs, rounds=rounds, before=partial(_forget, files))
        yield Row(f"reading {dtype}, page cache cold{suffix}", against, chilled, cold, where)
        ours, theirs = _reader(store, names, rate, workers, half=True), _reader(plain, names, rate, workers, half=True)
        yield Row(f"reading crops of half the side, {dtype}{suffix}", f"{against}, then cropped",
                  compare(ours, theirs, rounds=rounds), 10.0 if warm and dtype == "int8" else None, where)  # fmt: skip


class _Latents(Dataset):
    """One latent of each name, whole or a random half of its rows and columns."""

    def __init__(self, store: LatentStore, names: list[str], rate: int, half: bool) -> None:
        self.store, self.names, self.rate, self.half = store, names, rate, half

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        name = self.names[index]
        if isinstance(self.store, TreeStore):
            array = np.load(self.store.path(name, self.rate))
        else:
            array = self.store.read(name, self.rate).array
        if not self.half:
            return array
        rows, columns = (side // 2 for side in array.shape[1:])
        top, left = index % (rows + 1), (7 * index) % (columns + 1)
        return array[:, top : top + rows, left : left + columns]


def _collate(arrays: list[np.ndarray]) -> Any:
    return stack(arrays, *arrays[0].shape[1:])


def _reader(store: LatentStore, names: list[str], rate: int, workers: int, half: bool = False) -> Callable[[], None]:
    """Goes once through all names in an order of its own."""
    order = np.random.default_rng(0).permutation(len(names))
    batches = [list(map(int, order[i : i + BATCH])) for i in range(0, len(order), BATCH)]
    loader = DataLoader(
        _Latents(store, names, rate, half),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers,
        persistent_workers=workers > 0,  # their start is not what is measured
    )

    def read() -> None:
        for batch in loader:
            assert len(batch)  # copying into the batch has touched every byte

    return read


def _forget(files: list[Path]) -> None:
    """Asks the system to drop the files from its cache."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _bytes_of(store: PackedStore, rate: int) -> int:
    """Of all latents of a rate."""
    size = np.dtype(store.info.dtype).itemsize
    return sum(int(np.prod(store.shape(name, rate))) * size for name in store.names() if store.has(name, rate))
