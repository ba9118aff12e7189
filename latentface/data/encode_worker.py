"""The part of `encode` that runs in every process: photographs to files of latents."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np
import torch

from latentface.codecs.base import BatchCodec, Codec, Latent
from latentface.data.manifest import LatentEntry, ManifestRow
from latentface.data.pictures import crop_row, read_picture, render, whole_row
from latentface.data.stores import save_latent
from latentface.errors import LatentFaceError, PictureError
from latentface.files import make_folder
from latentface.machine import keep_memory
from latentface.workers import Engine, Failure, run_items

if TYPE_CHECKING:
    from latentface.data.encode import EncodeConfig

CodecFactory = Callable[[str, "str | None"], Codec]
Item = TypeVar("Item")

GPU_PIXELS = 8 * 640**2  # of the views that a GPU's networks take at a time: about 2 GB in each process


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
    """Turns tasks into files. What becomes of a photograph does not depend on the others."""

    def __init__(self, config: EncodeConfig, codec: Codec):
        self.config = config
        self.codec = codec

    def encode(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Reads each photograph once and writes the latents of all views; an outcome for each task."""
        rows: dict[str, list[ManifestRow]] = {task.name: [] for task in tasks}
        problems: dict[str, str] = {}
        for views in _in_parts(self._views(tasks, problems), views_at_once(self.config)):
            try:
                coded = self._latents(views)
            except PictureError as error:
                problems |= {view.task.name: f"{view.task.path}: {error}" for view in views}
                continue
            for view, latents in zip(views, coded, strict=True):
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

    def _latents(self, views: Sequence[Rendered]) -> list[list[Latent]]:
        if len(views) > 1 and isinstance(self.codec, BatchCodec):
            return self.codec.encode_batch(
                [view.picture for view in views], [view.rates for view in views], [view.pixels for view in views]
            )
        return [self.codec.encode_rates(view.picture, view.rates, view.pixels) for view in views]

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


def views_at_once(config: EncodeConfig) -> int:
    """Views that the codec's networks are given together: one on a CPU, which gains nothing by more and holds them."""
    return max(1, GPU_PIXELS // config.size**2) if config.device.startswith("cuda") else 1


def run_tasks(
    config: EncodeConfig, codec_factory: CodecFactory, codec: Codec | None, tasks: list[Task], engine: Engine
) -> Generator[Outcome, None, None]:
    """Outcomes in the order in which they are ready; `codec` is for one worker, which works in this process."""
    items = list(_in_parts(tasks, -(-views_at_once(config) // (1 + config.crops))))
    if codec is None:
        with closing(run_items(items, partial(_open_worker, config, codec_factory), engine)) as results:
            for item, result in results:
                if isinstance(result, Failure):
                    yield from (Outcome([], f"{task.path}: {result.reason}") for task in item)
                else:
                    yield from result
        return
    keep_memory()
    encoder = PictureEncoder(config, codec)
    with _one_thread():
        for item in items:
            yield from encoder.encode(item)


def _in_parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last possibly shorter."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _open_worker(config: EncodeConfig, codec_factory: CodecFactory) -> Callable[[Sequence[Task]], list[Outcome]]:
    keep_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return PictureEncoder(config, codec_factory(config.codec, config.codec_weights)).encode


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
