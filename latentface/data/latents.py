"""The documented tree of latents as a PyTorch dataset.

    ROOT/train/latent/<picture>/latent_75.npy     [256, 40, 40] for a 640x640 picture, one file per rate
    ROOT/train/labels.txt                         or ROOT/train/latent/labels.txt
    ROOT/train/latents.jsonl                      the encoder's manifest, where there is one
    ROOT/train/exclude.txt                        pictures to leave out, see `exclusions.py`

A directory and a label belong together by equal base name. Labels are in picture pixels (stride x latent size) unless
the manifest, `label_frame` with `image_sizes`, or `image_dir` says otherwise. Boxes are clipped to the picture; what
is left of them under a pixel is dropped.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from latentface.codecs.base import UNKNOWN_INDEX, named_together
from latentface.data.batches import LatentSample, SampleKey
from latentface.data.exclusions import EXCLUDE_NAME, exclusion_notes, read_exclusions
from latentface.data.labels import PictureLabels, clip_labels, crop_labels, read_labels
from latentface.data.manifest import MANIFEST_NAME, ManifestRow, read_manifest
from latentface.data.mirror import local, local_file, shown
from latentface.data.packed import PackedStore
from latentface.data.photographs import open_photographs
from latentface.data.remote_stores import RemotePack
from latentface.data.sizes import LabelFrame
from latentface.data.stores import available_rates, find_labels, latent_folder, open_store
from latentface.errors import LatentFaceError
from latentface.files import refuse_link_outside
from latentface.words import counted

DEFAULT_STRIDE = 16


@dataclass(frozen=True)
class Picture:
    """The latents of one name with their labels."""

    name: str
    labels: PictureLabels
    row: ManifestRow | None = None


@dataclass
class NestedLatentWiderFaceDataset(Dataset):
    """Pictures of a latent directory that have a label and a wanted rate.

    `rates`: with several, each epoch draws one per picture, of those that it has. `crop`: side in cells of a random
    square, the only augmentation inside the latent domain (learned latents cannot be flipped or resized).
    `photographs`: a folder of what was encoded, or a split of pixels with the same views; samples then hold the
    uncompressed picture too. `notes` says in plain lines what was left out. Raises LatentFaceError where nothing is
    left or a file is wrong, naming file and line.
    """

    latent_dir: Path
    label_file: Path
    rates: tuple[int, ...] = (75,)
    crop: int = 0
    seed: int = 0
    frame: LabelFrame = field(default_factory=LabelFrame)
    stride: int = DEFAULT_STRIDE
    photographs: Path | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.latent_dir, self.label_file = local(self.latent_dir), local_file(self.label_file)
        self.store = open_store(self.latent_dir)
        labels = read_labels(self.label_file)
        names = self.store.names()
        if excluded := read_exclusions(self.store.split):
            self.notes += exclusion_notes(self.store.split, excluded, {*names, *labels})
            if names and excluded.keys() >= set(names):
                raise LatentFaceError(f"{self.store.split / EXCLUDE_NAME}: leaves out every picture; remove lines")
            names = [name for name in names if name not in excluded]
            labels = {name: picture for name, picture in labels.items() if name not in excluded}
        self._report_strays(labels.keys(), names)
        rows = self._manifest()
        pairs = [Picture(name, labels[name], rows.get(name)) for name in names if name in labels]
        self._there = {p.name: tuple(r for r in self.rates if self.store.has(p.name, r)) for p in pairs}
        self.pictures = [picture for picture in pairs if self.rates_of(picture)]
        if len(self.pictures) < len(pairs):
            wanted = ", ".join(map(str, self.rates))
            lacking = counted(len(pairs) - len(self.pictures), "picture")
            self.notes.append(f"{lacking} without a rate of {wanted}: left out")
        if not self.pictures:
            raise LatentFaceError(
                f"{shown(self.latent_dir)}: no latent of rate {', '.join(map(str, self.rates))}; there are "
                f"{', '.join(map(str, available_rates(self.latent_dir))) or 'none'}"
            )
        strides = {picture.row.stride for picture in self.pictures if picture.row}
        if len(strides) > 1:
            raise LatentFaceError(
                f"{shown(self.latent_dir)}: latents of strides {sorted(strides)}: keep one stride per set"
            )
        self.stride = strides.pop() if strides else self.store.stride or self.stride
        self._note_dropped()
        self._note_wrong_frame()
        self._photographs = open_photographs(self.photographs, self._placed()) if self.photographs else None

    @classmethod
    def of_split(cls, split: str | Path, **options) -> NestedLatentWiderFaceDataset:
        """The dataset of `ROOT/train` or `ROOT/val`, a tree with its labels in the split or in `latent/`, or packed."""
        latent_dir = latent_folder(local(split))
        if not latent_dir.is_dir():
            raise LatentFaceError(f"{split}: no folder latent/ in it (expected {split}/latent/<picture>/latent_75.npy)")
        return cls(latent_dir, find_labels(latent_dir), **options)

    def at_rate(self, rate: int) -> NestedLatentWiderFaceDataset:
        """The pictures that have one of the rates, at it, uncropped: for validation."""
        other = copy.copy(self)
        other.rates, other.crop = (rate,), 0
        other.pictures = [picture for picture in self.pictures if other.rates_of(picture)]
        return other

    def by_shard(self) -> NestedLatentWiderFaceDataset:
        """The pictures of one rate in the order that fetches each shard once, where shards come by a network."""
        if not isinstance(self.store, RemotePack):
            return self
        place = {name: number for number, name in enumerate(self.store.names_at(self.rates[0]))}
        other = copy.copy(self)
        other.pictures = sorted(self.pictures, key=lambda picture: place[picture.name])
        return other

    def part(self, start: int, stop: int) -> NestedLatentWiderFaceDataset:
        """Some of the pictures, in their order."""
        other = copy.copy(self)
        other.pictures = self.pictures[start:stop]
        return other

    def rates_of(self, picture: Picture) -> tuple[int, ...]:
        """The wanted rates that there are of a picture."""
        return tuple(rate for rate in self._there[picture.name] if rate in self.rates)

    @property
    def codec(self) -> str:
        """The codec that the manifest names, or several together, "unknown" without one."""
        rows = [picture.row for picture in self.pictures if picture.row]
        return named_together(entry.codec for row in rows for rate, entry in row.latents.items() if rate in self.rates)

    @property
    def has_landmarks(self) -> bool:
        """Whether any face has landmarks to learn from."""
        return any(np.isfinite(picture.labels.landmarks).all(axis=(1, 2)).any() for picture in self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int | SampleKey) -> LatentSample:
        """An int gives the first rate that the picture has, whole; a SampleKey draws rate and crop for its epoch."""
        picture, rate, generator = self._draw(key)
        stored = self.store.read(picture.name, rate)
        array = stored.array
        labels = self._labels(picture, array.shape[1], array.shape[2])
        rgb = self._rgb(picture, rate, array.shape)
        if generator is not None and self.crop:
            array, labels, rgb = self._crop(array, labels, rgb, generator)
        if not self.store.checked:
            array = self._checked(array, picture, rate)
        return LatentSample(
            picture.name, array, rate, _model_index(picture, rate), labels.boxes, labels.landmarks, labels.ignore,
            stored.scale, stored.offset, rgb,
        )  # fmt: skip

    def drawn(self, key: int | SampleKey) -> tuple[str, int]:
        """Picture and rate of the latent that a sample is made of."""
        picture, rate, _ = self._draw(key)
        return picture.name, rate

    def shards(self, epoch: int) -> np.ndarray:
        """Of a packed set: the shard that each picture's sample is read from in an epoch, int64 [N]."""
        store = self.store
        assert isinstance(store, PackedStore)
        numbers = np.empty(len(self), np.int64)
        for index, picture in enumerate(self.pictures):
            there = {store.shard_of(picture.name, rate) for rate in self.rates_of(picture)}
            numbers[index] = there.pop() if len(there) == 1 else store.shard_of(*self.drawn(SampleKey(index, epoch)))
        return numbers

    def _draw(self, key: int | SampleKey) -> tuple[Picture, int, np.random.Generator | None]:
        """Picture, rate, and what a crop is drawn by."""
        index, epoch = key if isinstance(key, tuple) else (key, None)
        picture = self.pictures[index]
        generator = np.random.default_rng((self.seed, epoch, index)) if epoch is not None else None
        rates = self.rates_of(picture)
        return picture, rates[0] if generator is None else int(generator.choice(rates)), generator

    def _checked(self, array: np.ndarray, picture: Picture, rate: int) -> np.ndarray:
        if array.dtype == np.uint8:  # pixels
            return np.ascontiguousarray(array)
        array = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            place = self.store.place(picture.name, rate)
            raise LatentFaceError(f"{place}: NaN or infinite values; write this latent again or remove its folder")
        return array

    def labels_of(self, picture: Picture) -> PictureLabels:
        """The labels that go with a picture's whole latent: picture pixels, clipped; no values are read."""
        _, rows, columns = self.store.shape(picture.name, self.rates_of(picture)[0])
        return self._labels(picture, rows, columns)

    def _labels(self, picture: Picture, rows: int, columns: int) -> PictureLabels:
        """The picture's labels in picture pixels, clipped to it."""
        height, width = rows * self.stride, columns * self.stride
        return clip_labels(self.frame.to_picture(picture.labels, picture.row, width, height), width, height)

    def _crop(
        self, latent: np.ndarray, labels: PictureLabels, rgb: np.ndarray | None, generator: np.random.Generator
    ) -> tuple[np.ndarray, PictureLabels, np.ndarray | None]:
        """A random square of whole cells, the faces in it, and the same part of the picture."""
        rows, columns = (min(self.crop, side) for side in latent.shape[1:])
        top = int(generator.integers(latent.shape[1] - rows + 1))
        left = int(generator.integers(latent.shape[2] - columns + 1))
        x, y, height, width = (cells * self.stride for cells in (left, top, rows, columns))
        inside = crop_labels(labels, x, y, width, height).shifted(-x, -y)
        latent = latent[:, top : top + rows, left : left + columns]
        rgb = None if rgb is None else rgb[y : y + height, x : x + width]
        return latent, clip_labels(inside, width, height), rgb

    def _placed(self) -> Iterator[ManifestRow]:
        """The row of every picture. Raises LatentFaceError where there is none."""
        for picture in self.pictures:
            if picture.row is None:
                raise LatentFaceError(f"{picture.name}: no manifest says where it lies in its photograph")
            yield picture.row

    def _rgb(self, picture: Picture, rate: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """What was encoded, uint8 [H, W, 3], where photographs are there. `shape` is that of the latent."""
        if self._photographs is None:
            return None
        assert picture.row is not None  # `_placed` has looked
        picture.row.check_cells(shape, self.store.place(picture.name, rate))
        return self._photographs.of(picture.row)

    def _note_dropped(self) -> None:
        """Boxes that no prior could be matched with: an infinite loss in software that lets them pass."""
        dropped = [(picture.labels.dropped, picture.name) for picture in self.pictures if picture.labels.dropped]
        if dropped:
            boxes = sum(count for count, _ in dropped)
            self.notes.append(f"{boxes} boxes without width or height are left out, the first of {dropped[0][1]}")

    def _note_wrong_frame(self, sample: int = 100) -> None:
        """Labels of the photographs beside latents of resized pictures are the commonest mistake of all."""
        outside = boxes = 0
        for picture in self.pictures[:: max(1, len(self.pictures) // sample)]:
            _, rows, columns = self.store.shape(picture.name, self.rates_of(picture)[0])
            width, height = columns * self.stride, rows * self.stride
            placed = self.frame.to_picture(picture.labels, picture.row, width, height).boxes
            boxes += len(placed)
            outside += int((((placed[:, :2] + placed[:, 2:]) / 2) > (width, height)).any(axis=1).sum())
        if outside > 0.05 * boxes:
            self.notes.append(
                f"{outside} of {boxes} boxes looked at lie outside their picture: if these labels are in pixels of the "
                "photographs, give --label_frame source with --image_sizes or --image_dir"
            )

    def _manifest(self) -> dict[str, ManifestRow]:
        path = self.store.split / MANIFEST_NAME
        refuse_link_outside(path, path.parent)
        return read_manifest(path) if path.is_file() else {}

    def _report_strays(self, labels: Iterable[str], names: list[str]) -> None:
        unlabelled, unencoded = sorted(set(names) - set(labels)), sorted(set(labels) - set(names))
        if names and len(unlabelled) == len(names):
            near = difflib.get_close_matches(unlabelled[0], unencoded, n=1, cutoff=0.5)
            raise LatentFaceError(
                f"{self.label_file}: no label belongs to any folder of {self.latent_dir}: for {unlabelled[0]}/ there "
                f"has to be an entry of that base name" + (f" (the nearest is {near[0]})" if near else "")
            )
        if unlabelled:
            lacking = counted(len(unlabelled), "folder")
            self.notes.append(f"{lacking} without a label left out, the first is {unlabelled[0]}")
        if unencoded:
            lacking = counted(len(unencoded), "label")
            self.notes.append(f"{lacking} without latents left out, the first is {unencoded[0]}")


def _model_index(picture: Picture, rate: int) -> int:
    entry = picture.row.latents.get(rate) if picture.row else None
    return UNKNOWN_INDEX if entry is None or entry.model_index is None else entry.model_index
