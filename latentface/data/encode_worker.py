"""The part of `encode` that runs in every process: photographs to files of latents."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch

from latentface.codecs.base import Codec
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


class PictureEncoder:
    """Turns tasks into files; knows nothing of other pictures."""

    def __init__(self, config: EncodeConfig, codec: Codec):
        self.config = config
        self.codec = codec

    def encode(self, task: Task) -> Outcome:
        """Reads the photograph once, writes the latents of all views."""
        try:
            rgb = read_picture(task.path)
        except LatentFaceError as error:
            return Outcome([], str(error))
        rows: list[ManifestRow] = []
        try:
            for view in task.views:
                rows.append(self.view(rgb, task.name, view))
        except PictureError as error:
            return Outcome(rows, f"{task.path}: {error}")
        return Outcome(rows)

    def view(self, rgb: np.ndarray, name: str, view: View) -> ManifestRow:
        row = self.place(rgb, name, view.crop)
        folder = Path(self.config.out) / "latent" / row.base
        make_folder(folder, "--out", within=self.config.out)
        content = row.content_width * row.content_height  # what bits per pixel are counted on
        latents = self.codec.encode_rates(render(rgb, row), view.rates, content)
        for rate, latent in zip(view.rates, latents, strict=True):
            save_latent(folder / f"latent_{rate}.npy", latent.array, self.config.dtype)
        entries = {rate: LatentEntry.of(latent) for rate, latent in zip(view.rates, latents, strict=True)}
        return replace(row, latents=entries, encoder=self.config.recorded())

    def place(self, rgb: np.ndarray, name: str, crop: int | None) -> ManifestRow:
        height, width = rgb.shape[:2]
        size, stride = self.config.size, self.codec.stride
        if crop is None:
            return whole_row(name, width, height, size, self.config.fit, stride)
        return crop_row(name, width, height, size, stride, self.config.seed, crop, self.config.crop_range)


def run_tasks(
    config: EncodeConfig, codec_factory: CodecFactory, codec: Codec | None, tasks: list[Task], engine: Engine
) -> Generator[Outcome, None, None]:
    """Outcomes in the order in which they are ready; `codec` is for one worker, which works in this process."""
    if codec is None:
        with closing(run_items(tasks, partial(_open_worker, config, codec_factory), engine)) as results:
            for task, result in results:
                yield Outcome([], f"{task.path}: {result.reason}") if isinstance(result, Failure) else result
        return
    keep_memory()
    encoder = PictureEncoder(config, codec)
    with _one_thread():
        yield from map(encoder.encode, tasks)


def _open_worker(config: EncodeConfig, codec_factory: CodecFactory) -> Callable[[Task], Outcome]:
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
