"""In which order an epoch takes its pictures where reading jumps is dear: shard by shard, mixed within a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ShardOrder:
    """`order(epoch)`: all pictures once, so that each shard is needed during one stretch of the epoch only.

    Shards are shuffled and taken in windows of `window`; within a window all pictures are shuffled. Follows from
    (seed, epoch) alone. `shards(epoch)` gives the shard of each picture, as the rate that an epoch draws may lie in
    another.
    """

    shards: Callable[[int], np.ndarray]  # int64 [N]
    seed: int
    window: int

    def __call__(self, epoch: int) -> np.ndarray:
        """int64 [N]."""
        return self._order(epoch)[0]

    def first(self) -> np.ndarray:
        """The pictures of the first window: what is at hand before an epoch begins."""
        order, windows = self._order(0)
        return order[windows == 0]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Pictures and their windows, in the order of the epoch."""
        generator = np.random.default_rng((self.seed, epoch))
        shards = self.shards(epoch)
        numbers, of_picture = np.unique(shards, return_inverse=True)
        windows = (generator.permutation(len(numbers)) // self.window)[of_picture]  # of each picture
        shuffled = generator.permutation(len(shards))
        order = shuffled[np.argsort(windows[shuffled], kind="stable")]
        return order, windows[order]


@dataclass(frozen=True)
class PictureOrder:
    """`order(epoch)`: all pictures once, drawn from the whole set."""

    pictures: int
    seed: int

    def __call__(self, epoch: int) -> np.ndarray:
        """int64 [N]."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.pictures)
