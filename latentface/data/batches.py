"""Samples and batches: what a dataset gives and a training step takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from latentface.data.order import PictureOrder
from latentface.data.stores import to_float


class SampleKey(NamedTuple):
    """A sample of one epoch: rate and crop are drawn from (seed, epoch, picture), whoever loads it and in any order."""

    picture: int
    epoch: int


@dataclass(frozen=True)
class LatentSample:
    """One latent and its faces."""

    name: str
    latent: np.ndarray  # [C, h, w], raw: float32, of a packed set also float16 or int8, of pixels uint8
    rate: int
    model_index: int  # -1: unknown
    boxes: np.ndarray  # float32 [N, 4] x1 y1 x2 y2, picture pixels
    landmarks: np.ndarray  # float32 [N, 5, 2], NaN where unknown
    ignore: np.ndarray  # bool [N]
    scale: np.ndarray | None = None  # float32 [C], of int8: the values are latent * scale + offset
    offset: np.ndarray | None = None
    picture: np.ndarray | None = None  # uint8 [H, W, 3], the uncompressed picture, where the dataset was asked for it

    @property
    def values(self) -> np.ndarray:
        """float32 [C, h, w]."""
        return to_float(self.latent, self.scale, self.offset)


@dataclass(frozen=True)
class LatentBatch:
    """Samples side by side, padded to common sizes."""

    names: list[str]
    latents: Tensor  # [B, C, h, w] as stored; `decoded` gives float32
    rates: Tensor  # int64 [B]
    model_indices: Tensor  # int64 [B], -1: unknown
    boxes: Tensor  # float32 [B, M, 4]
    landmarks: Tensor  # float32 [B, M, 10], NaN where unknown
    valid: Tensor  # bool [B, M] a real box, not padding
    ignore: Tensor  # bool [B, M]
    scale: Tensor | None = None  # float32 [B, C], of int8
    offset: Tensor | None = None
    pictures: Tensor | None = None  # uint8 [B, 3, H, W]

    def decoded(self, device: torch.device | str = "cpu") -> Tensor:
        """float32 [B, C, h, w] in channels-last order on `device`: what is stored travels, and is converted there."""
        latents = self.latents.to(device, non_blocking=True).float()
        if self.scale is not None and self.offset is not None:
            scale, offset = (t.to(device, non_blocking=True)[:, :, None, None] for t in (self.scale, self.offset))
            latents = latents * scale + offset
        return latents.contiguous(memory_format=torch.channels_last)

    def truth(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [M, 4], landmarks [M, 5, 2] and ignore flags [M] of one picture, without padding."""
        real = self.valid[row]
        landmarks = self.landmarks[row, real].numpy().reshape(-1, 5, 2)
        return self.boxes[row, real].numpy(), landmarks, self.ignore[row, real].numpy()

    def share_memory(self) -> None:
        """Moves all tensors into shared memory; RuntimeError where there is not enough."""
        for value in vars(self).values():
            if isinstance(value, Tensor):
                value.share_memory_()

    def pin_memory(self) -> LatentBatch:
        """Called by the loader when it prepares batches for a GPU."""
        pinned: dict[str, Any] = {k: v.pin_memory() for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **pinned)


class EpochBatches(Sampler[list[SampleKey]]):
    """Batches of sample keys in an order that depends on seed and epoch only, so that a run can continue inside one.

    `order(epoch)` gives the pictures of an epoch, int64 [samples]; without it they are drawn from the whole set. Of
    several processes each takes every `ranks`-th sample of a batch. Where the last batch has too few for all, those
    without one get its first, to take part with; `shares` says that it does not count.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        order: Callable[[int], np.ndarray] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.order = order or PictureOrder(samples, seed)
        self.rank, self.ranks = rank, ranks
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = self.order(self.epoch)
        for start in range(self.first_batch * self.batch_size, self.samples, self.batch_size):
            batch = order[start : start + self.batch_size]
            own = batch[self.rank :: self.ranks] if len(batch) > self.rank else batch[:1]
            yield [SampleKey(int(index), self.epoch) for index in own]

    def shares(self, batch: int) -> tuple[int, int]:
        """How many samples a batch has in all, and how many of them are this process's."""
        samples = min(self.batch_size, self.samples - batch * self.batch_size)
        return samples, len(range(self.rank, samples, self.ranks))


def collate(samples: Sequence[LatentSample]) -> LatentBatch:
    """Samples -> a batch. Smaller latents are padded on the right and at the bottom by their last cells.

    Those of fewer channels get zeros for the others, which no model reads: see `LatentNormalisation`. Of a batch of
    192 and 320 channels that is two fifths more to move for the narrow ones, and nothing on disk.
    """
    height, width = (max(s.latent.shape[axis] for s in samples) for axis in (1, 2))
    most = max(1, max(len(s.boxes) for s in samples))
    batch = len(samples)
    boxes, landmarks = torch.zeros(batch, most, 4), torch.full((batch, most, 10), torch.nan)
    valid, ignore = torch.zeros(batch, most, dtype=torch.bool), torch.zeros(batch, most, dtype=torch.bool)
    for row, sample in enumerate(samples):
        faces = len(sample.boxes)
        boxes[row, :faces] = torch.from_numpy(sample.boxes)
        landmarks[row, :faces] = torch.from_numpy(sample.landmarks.reshape(faces, 10))
        valid[row, :faces] = True
        ignore[row, :faces] = torch.from_numpy(sample.ignore)
    return LatentBatch(
        names=[s.name for s in samples],
        latents=stack([s.latent for s in samples], height, width),
        rates=torch.tensor([s.rate for s in samples]),
        model_indices=torch.tensor([s.model_index for s in samples]),
        boxes=boxes,
        landmarks=landmarks,
        valid=valid,
        ignore=ignore,
        scale=_stack_tables([s.scale for s in samples]),
        offset=_stack_tables([s.offset for s in samples]),
        pictures=_stack_pictures([s.picture for s in samples]),
    )


def collate_by_shape(samples: Sequence[LatentSample]) -> list[LatentBatch]:
    """One batch per shape of latent, so that nothing is padded: for validation."""
    groups: dict[tuple[int, ...], list[LatentSample]] = {}
    for sample in samples:
        groups.setdefault(sample.latent.shape, []).append(sample)
    return [collate(group) for group in groups.values()]


def stack(latents: Sequence[np.ndarray], height: int, width: int) -> Tensor:
    """[c, h, w] each -> [B, C, height, width], channels last in memory if they are; every value is copied once."""
    batch, channels, dtype = len(latents), max(map(len, latents)), latents[0].dtype
    if latents[0].strides[0] == latents[0].itemsize:
        stacked = np.empty((batch, height, width, channels), dtype).transpose(0, 3, 1, 2)
    else:
        stacked = np.empty((batch, channels, height, width), dtype)
    for target, latent in zip(stacked, latents, strict=True):
        if target.shape == latent.shape:
            target[...] = latent
            continue
        depth, rows, columns = latent.shape
        target[depth:] = 0
        target = target[:depth]
        target[:, :rows, :columns] = latent
        target[:, rows:, :columns] = latent[:, -1:, :]
        target[:, :, columns:] = target[:, :, columns - 1 : columns]
    return torch.from_numpy(stacked)


def _stack_pictures(pictures: list[np.ndarray | None]) -> Tensor | None:
    there = [picture.transpose(2, 0, 1) for picture in pictures if picture is not None]
    if len(there) < len(pictures):
        return None
    return stack(there, *(max(picture.shape[axis] for picture in there) for axis in (1, 2)))


def _stack_tables(tables: list[np.ndarray | None]) -> Tensor | None:
    """[c] each -> [B, C], zeros for channels that a sample lacks."""
    there = [table for table in tables if table is not None]
    if len(there) < len(tables):
        return None
    most = max(map(len, there))
    return torch.from_numpy(np.stack([np.pad(table, (0, most - len(table))) for table in there]))
