"""The part of `encode` that runs in every process: photographs to files of latents."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch

from latentface.codecs.base import BatchCodec, Codec, Latent
from latentface.data.manifest import LatentEntry, ManifestRow
from latentface.data.pictures import crop_row, read_picture, render, whole_row
from latentface.data.stores import save_latent
from latentface.errors import LatentFaceError, PictureError
from latentface.files import make_folder
from latentface.machine import cores, keep_memory
from latentface.workers import Engine, Failure, in_parts, run_items

if TYPE_CHECKING:
    from latentface.data.encode import EncodeConfig

CodecFactory = Callable[[str, "str | None"], Codec]

GPU_PIXELS = 8 * 640**2  # of the views that a GPU's networks take at a time
GPU_MEMORY = 3e9  # bytes that such a process is given room for, its CUDA context included


class View(NamedTuple):
    """What is to be made of a photograph: the whole of it (crop None) or one of its crops."""

    crop: int | None
    rates: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """One photograph and all that is still missing of it."""

    name: str
    path: Path
    views: tuple[View, ...]


@dataclass(frozen=True)
class Outcome:
    """Rows of what was written, and why the photograph cannot be read or a codec fails on it."""

    rows: list[ManifestRow]
    problem: str | None = None


@dataclass(frozen=True)
class Rendered:
    """A view that is ready to be encoded; `row` has no latents yet."""

    task: Task
    row: ManifestRow
    rates: tuple[int, ...]
    picture: np.ndarray  # uint8 [size, size, 3]

    @property
    def pixels(self) -> int:
        """What bits per pixel are counted on."""
        return self.row.content_width * self.row.content_height


class PictureEncoder:
    """Turns tasks into files, `at_once` views at a time.

    One at a time, what becomes of a photograph does not depend on the others; in a batch, what lies on a rounding edge
    may fall to either side.
    """

    def __init__(self, config: EncodeConfig, codec: Codec, at_once: int = 1):
        self.config = config
        self.codec = codec
        self.at_once = at_once

    def encode(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Reads each photograph once and writes the latents of all views; an outcome for each task."""
        rows: dict[str, list[ManifestRow]] = {task.name: [] for task in tasks}
        problems: dict[str, str] = {}
        for views in in_parts(self._views(tasks, problems), self.at_once):
            for view, latents in self._coded(views, problems):
                rows[view.task.name].append(self._write(view, latents))
        return [Outcome(rows[task.name], problems.get(task.name)) for task in tasks]

    def _views(self, tasks: Sequence[Task], problems: dict[str, str]) -> Iterator[Rendered]:
        """One after the other, as they are needed; of a photograph no more once it has a problem."""
        for task in tasks:
            try:
                rgb = read_picture(task.path)
            except LatentFaceError as error:
                problems[task.name] = str(error)
                continue
            for view in task.views:
                if task.name in problems:
                    break
                row = self.place(rgb, task.name, view.crop)
                yield Rendered(task, row, view.rates, render(rgb, row))

    def _coded(
        self, views: Sequence[Rendered], problems: dict[str, str]
    ) -> Iterator[tuple[Rendered, Sequence[Latent]]]:
        """The views with their latents; where a codec fails on several, one after the other, to know on which."""
        if len(views) > 1 and isinstance(self.codec, BatchCodec):
            pictures, rates, pixels = zip(*((view.picture, view.rates, view.pixels) for view in views), strict=True)
            with suppress(PictureError):
                yield from zip(views, self.codec.encode_batch(pictures, rates, pixels), strict=True)
                return
        for view in views:
            try:
                yield view, self.codec.encode_rates(view.picture, view.rates, view.pixels)
            except PictureError as error:
                problems[view.task.name] = f"{view.task.path}: {error}"

    def _write(self, view: Rendered, latents: Sequence[Latent]) -> ManifestRow:
        folder = Path(self.config.out) / "latent" / view.row.base
        make_folder(folder, "--out", within=self.config.out)
        for rate, latent in zip(view.rates, latents, strict=True):
            save_latent(folder / f"latent_{rate}.npy", latent.array, self.config.dtype)
        entries = {rate: LatentEntry.of(latent) for rate, latent in zip(view.rates, latents, strict=True)}
        return replace(view.row, latents=entries, encoder=self.config.recorded())

    def place(self, rgb: np.ndarray, name: str, crop: int | None) -> ManifestRow:
        height, width = rgb.shape[:2]
        size, stride = self.config.size, self.codec.stride
        if crop is None:
            return whole_row(name, width, height, size, self.config.fit, stride)
        return crop_row(name, width, height, size, stride, self.config.seed, crop, self.config.crop_range)


def views_at_once(config: EncodeConfig, codec: Codec) -> int:
    """Views that the codec's networks are given together: one on a CPU, which gains nothing by more and holds them."""
    on_gpu = config.device.startswith("cuda") and isinstance(codec, BatchCodec)
    return max(1, GPU_PIXELS // config.size**2) if on_gpu else 1


def in_items(config: EncodeConfig, tasks: Sequence[Task], at_once: int) -> list[list[Task]]:
    """What a worker is given at a time: photographs whose views together are about one batch."""
    return list(in_parts(tasks, max(1, at_once // (1 + config.crops))))


def processes_of(config: EncodeConfig) -> int:
    """As `--workers` says; 0: one per core, on a GPU no more than its memory has room for."""
    if config.workers or not config.device.startswith("cuda"):
        return config.workers or cores()
    free, _ = torch.cuda.mem_get_info(torch.device(config.device))
    return max(1, min(cores(), int(free // GPU_MEMORY)))


def run_items_of(
    config: EncodeConfig, codec_factory: CodecFactory, items: Sequence[Sequence[Task]], at_once: int, engine: Engine
) -> Generator[Outcome, None, None]:
    """Outcomes by several processes, in the order in which they are ready. What kills them is looked for one by one."""
    alone: list[list[Task]] = []
    with closing(run_items(items, partial(_open_worker, config, codec_factory, at_once), engine)) as results:
        for item, result in results:
            if not isinstance(result, Failure):
                yield from result
            elif len(item) == 1:
                yield Outcome([], f"{item[0].path}: {result.reason}")
            else:
                alone += [[task] for task in item]
    if alone:
        yield from run_items_of(config, codec_factory, alone, at_once, engine)


def run_here(
    config: EncodeConfig, codec: Codec, items: Iterable[Sequence[Task]], at_once: int
) -> Generator[Outcome, None, None]:
    """Outcomes by this process alone."""
    keep_memory()
    encoder = PictureEncoder(config, codec, at_once)
    with _one_thread():
        for item in items:
            yield from encoder.encode(item)


def _open_worker(
    config: EncodeConfig, codec_factory: CodecFactory, at_once: int
) -> Callable[[Sequence[Task]], list[Outcome]]:
    keep_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return PictureEncoder(config, codec_factory(config.codec, config.codec_weights), at_once).encode


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same thread count as in a worker process, so that the number of workers does not change a single bit."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
