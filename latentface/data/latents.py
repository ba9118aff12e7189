"""The documented tree of latents as a PyTorch dataset.

    ROOT/train/latent/<picture>/latent_75.npy     [256, 40, 40] for a 640x640 picture, one file per rate
    ROOT/train/labels.txt                         or ROOT/train/latent/labels.txt
    ROOT/train/latents.jsonl                      the encoder's manifest, where there is one

A directory and a label belong together by equal base name. Labels are in picture pixels (stride x latent size) unless
the manifest, `label_frame` with `image_sizes`, or `image_dir` says otherwise. Boxes are clipped to the picture; what
is left of them under a pixel is dropped.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from latentface.codecs.base import UNKNOWN_INDEX
from latentface.data.labels import PictureLabels, clip_labels, crop_labels, read_labels
from latentface.data.manifest import MANIFEST_NAME, ManifestRow, read_manifest
from latentface.data.sizes import LabelFrame
from latentface.errors import LatentFaceError

DEFAULT_STRIDE = 16
_LATENT_NAME = re.compile(r"latent_(\d+)\.npy")


class SampleKey(NamedTuple):
    """A sample of one epoch: rate and crop are drawn from (seed, epoch, picture), whoever loads it and in any order."""

    picture: int
    epoch: int


@dataclass(frozen=True)
class LatentSample:
    """One latent and its faces."""

    name: str
    latent: np.ndarray  # float32 [C, h, w], raw
    rate: int
    model_index: int  # -1: unknown
    boxes: np.ndarray  # float32 [N, 4] x1 y1 x2 y2, picture pixels
    landmarks: np.ndarray  # float32 [N, 5, 2], NaN where unknown
    ignore: np.ndarray  # bool [N]


@dataclass(frozen=True)
class LatentBatch:
    """Samples side by side, padded to common sizes."""

    names: list[str]
    latents: Tensor  # float32 [B, C, h, w]
    rates: Tensor  # int64 [B]
    model_indices: Tensor  # int64 [B], -1: unknown
    boxes: Tensor  # float32 [B, M, 4]
    landmarks: Tensor  # float32 [B, M, 10], NaN where unknown
    valid: Tensor  # bool [B, M] a real box, not padding
    ignore: Tensor  # bool [B, M]

    def truth(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [M, 4], landmarks [M, 5, 2] and ignore flags [M] of one picture, without padding."""
        real = self.valid[row]
        landmarks = self.landmarks[row, real].numpy().reshape(-1, 5, 2)
        return self.boxes[row, real].numpy(), landmarks, self.ignore[row, real].numpy()

    def pin_memory(self) -> LatentBatch:
        """Called by the loader when it prepares batches for a GPU."""
        pinned: dict[str, Any] = {k: v.pin_memory() for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **pinned)


@dataclass(frozen=True)
class Picture:
    """One directory of latents with its labels."""

    folder: Path
    labels: PictureLabels
    row: ManifestRow | None = None


@dataclass
class NestedLatentWiderFaceDataset(Dataset):
    """Pictures of a latent directory that have a label and all wanted rates.

    `rates`: with several, each epoch draws one per picture. `crop`: side in cells of a random square, the only
    augmentation inside the latent domain (learned latents cannot be flipped or resized). `notes` says in plain lines
    what was left out. Raises LatentFaceError where nothing is left or a file is wrong, naming file and line.
    """

    latent_dir: Path
    label_file: Path
    rates: tuple[int, ...] = (75,)
    crop: int = 0
    seed: int = 0
    frame: LabelFrame = field(default_factory=LabelFrame)
    stride: int = DEFAULT_STRIDE
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.latent_dir, self.label_file = Path(self.latent_dir), Path(self.label_file)
        labels = read_labels(self.label_file)
        folders = _folders(self.latent_dir)
        self._report_strays(labels, folders)
        rows = self._manifest()
        pairs = [Picture(folders[base], labels[base], rows.get(base)) for base in sorted(folders.keys() & labels)]
        self.pictures = [picture for picture in pairs if self._has_rates(picture)]
        if len(self.pictures) < len(pairs):
            self.notes.append(
                f"{len(pairs) - len(self.pictures)} pictures lack one of the rates {self.rates}: left out"
            )
        if not self.pictures:
            raise LatentFaceError(
                f"{self.latent_dir}: no latent of rate {', '.join(map(str, self.rates))}; there are "
                f"{', '.join(map(str, available_rates(self.latent_dir))) or 'none'}"
            )
        strides = {picture.row.stride for picture in self.pictures if picture.row}
        if len(strides) > 1:
            raise LatentFaceError(f"{self.latent_dir}: latents of strides {sorted(strides)}: keep one stride per set")
        self.stride = strides.pop() if strides else self.stride
        self._note_wrong_frame()

    @classmethod
    def of_split(cls, split: str | Path, **options) -> NestedLatentWiderFaceDataset:
        """The dataset of `ROOT/train` or `ROOT/val`, its labels in the split or in `latent/`."""
        split = Path(split)
        if not (split / "latent").is_dir():
            raise LatentFaceError(f"{split}: no folder latent/ in it (expected {split}/latent/<picture>/latent_75.npy)")
        return cls(split / "latent", find_labels(split / "latent"), **options)

    def at_rate(self, rate: int) -> NestedLatentWiderFaceDataset:
        """The same pictures at one of the rates, uncropped: for validation."""
        other = copy.copy(self)
        other.rates, other.crop = (rate,), 0
        return other

    @property
    def codec(self) -> str:
        """The codec that the manifest names, "unknown" without one."""
        names = {entry.codec for p in self.pictures if p.row for r, entry in p.row.latents.items() if r in self.rates}
        return " and ".join(sorted(names)) or "unknown"

    @property
    def has_landmarks(self) -> bool:
        """Whether any face has landmarks to learn from."""
        return any(np.isfinite(picture.labels.landmarks).all(axis=(1, 2)).any() for picture in self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int | SampleKey) -> LatentSample:
        """An int gives the first rate, whole; a SampleKey draws rate and crop for its epoch."""
        index, epoch = key if isinstance(key, tuple) else (key, None)
        picture = self.pictures[index]
        generator = np.random.default_rng((self.seed, epoch, index)) if epoch is not None else None
        rate = self.rates[0] if generator is None else int(generator.choice(self.rates))
        path = picture.folder / f"latent_{rate}.npy"
        latent = read_latent(path)
        labels = self._labels(picture, latent.shape[1], latent.shape[2])
        if generator is not None and self.crop:
            latent, labels = self._crop(latent, labels, generator)
        array = np.ascontiguousarray(latent, dtype=np.float32)
        if not np.isfinite(array).all():
            raise LatentFaceError(f"{path}: NaN or infinite values; write this latent again or remove its folder")
        return LatentSample(
            picture.folder.name, array, rate, _model_index(picture, rate), labels.boxes, labels.landmarks, labels.ignore
        )

    def _labels(self, picture: Picture, rows: int, columns: int) -> PictureLabels:
        """The picture's labels in picture pixels, clipped to it."""
        height, width = rows * self.stride, columns * self.stride
        return clip_labels(self.frame.to_picture(picture.labels, picture.row, width, height), width, height)

    def _crop(
        self, latent: np.ndarray, labels: PictureLabels, generator: np.random.Generator
    ) -> tuple[np.ndarray, PictureLabels]:
        """A random square of whole cells, and the faces in it."""
        rows, columns = (min(self.crop, side) for side in latent.shape[1:])
        top = int(generator.integers(latent.shape[1] - rows + 1))
        left = int(generator.integers(latent.shape[2] - columns + 1))
        x, y, height, width = (cells * self.stride for cells in (left, top, rows, columns))
        inside = crop_labels(labels, x, y, width, height).shifted(-x, -y)
        return latent[:, top : top + rows, left : left + columns], clip_labels(inside, width, height)

    def _has_rates(self, picture: Picture) -> bool:
        return all((picture.folder / f"latent_{rate}.npy").is_file() for rate in self.rates)

    def _note_wrong_frame(self, sample: int = 100) -> None:
        """Labels of the photographs beside latents of resized pictures are the commonest mistake of all."""
        outside = boxes = 0
        for picture in self.pictures[:: max(1, len(self.pictures) // sample)]:
            _, rows, columns = read_latent(picture.folder / f"latent_{self.rates[0]}.npy").shape
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
        path = self.latent_dir.parent / MANIFEST_NAME
        return read_manifest(path) if path.is_file() else {}

    def _report_strays(self, labels: dict[str, PictureLabels], folders: dict[str, Path]) -> None:
        unlabelled, unencoded = sorted(folders.keys() - labels), sorted(labels.keys() - folders.keys())
        if folders and len(unlabelled) == len(folders):
            near = difflib.get_close_matches(unlabelled[0], unencoded, n=1, cutoff=0.5)
            raise LatentFaceError(
                f"{self.label_file}: no label belongs to any folder of {self.latent_dir}: for {unlabelled[0]}/ there "
                f"has to be an entry of that base name" + (f" (the nearest is {near[0]})" if near else "")
            )
        if unlabelled:
            self.notes.append(f"{len(unlabelled)} folders without a label are left out, the first is {unlabelled[0]}")
        if unencoded:
            self.notes.append(f"{len(unencoded)} labels without latents are left out, the first is {unencoded[0]}")


def read_latent(path: str | Path) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped, as [C, h, w].

    Raises LatentFaceError for anything else than a float or integer array [C, h, w] or [1, C, h, w]. Nothing in the
    file is executed. Values are not looked at, so they may be NaN or infinite.
    """
    path = Path(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise LatentFaceError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise LatentFaceError(f"{path}: not a NumPy array of numbers, or a damaged one; write it again") from error
    if not isinstance(array, np.ndarray):
        raise LatentFaceError(f"{path}: an archive; expected one array [C, h, w]")
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or 0 in array.shape:
        raise LatentFaceError(f"{path}: shape {list(array.shape)}; expected [C, h, w] or [1, C, h, w]")
    if array.dtype.kind not in "fiu":
        raise LatentFaceError(f"{path}: dtype {array.dtype}; expected floating point or integer numbers")
    return array


def rate_of(path: str | Path) -> int | None:
    """75 for `.../latent_75.npy`; None for another name."""
    found = _LATENT_NAME.fullmatch(Path(path).name)
    return int(found[1]) if found else None


def available_rates(latent_dir: str | Path, sample: int = 50) -> list[int]:
    """The rates found in the first folders of a latent directory."""
    folders = sorted(_folders(Path(latent_dir)).values())[:sample]
    return sorted({rate for folder in folders for file in folder.iterdir() if (rate := rate_of(file)) is not None})


def find_labels(latent_dir: Path) -> Path:
    """`labels.txt` beside a latent directory, else in it."""
    for place in (latent_dir.parent / "labels.txt", latent_dir / "labels.txt"):
        if place.is_file():
            return place
    raise LatentFaceError(f"{latent_dir.parent}: no labels.txt, neither here nor in {latent_dir.name}/")


def _folders(latent_dir: Path) -> dict[str, Path]:
    try:
        return {path.name: path for path in latent_dir.iterdir() if path.is_dir()}
    except OSError as error:
        raise LatentFaceError(f"{latent_dir}: cannot be listed ({error.strerror}); give a folder of latents") from error


def _model_index(picture: Picture, rate: int) -> int:
    entry = picture.row.latents.get(rate) if picture.row else None
    return UNKNOWN_INDEX if entry is None or entry.model_index is None else entry.model_index


class EpochBatches(Sampler[list[SampleKey]]):
    """Batches of sample keys in an order that depends on seed and epoch only, so that a run can continue inside one."""

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples)
        for start in range(self.first_batch * self.batch_size, self.samples, self.batch_size):
            yield [SampleKey(int(index), self.epoch) for index in order[start : start + self.batch_size]]


def collate(samples: Sequence[LatentSample]) -> LatentBatch:
    """Samples -> a batch. Smaller latents are padded on the right and at the bottom by their last cells."""
    for s in samples:
        if len(s.latent) != len(samples[0].latent):
            raise LatentFaceError(
                f"{s.name}/latent_{s.rate}.npy has {len(s.latent)} channels, {samples[0].name} has "
                f"{len(samples[0].latent)}: one model needs one number of channels"
            )
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
        latents=torch.from_numpy(np.stack([_pad(s.latent, height, width) for s in samples])),
        rates=torch.tensor([s.rate for s in samples]),
        model_indices=torch.tensor([s.model_index for s in samples]),
        boxes=boxes,
        landmarks=landmarks,
        valid=valid,
        ignore=ignore,
    )


def collate_by_shape(samples: Sequence[LatentSample]) -> list[LatentBatch]:
    """One batch per shape of latent, so that nothing is padded: for validation."""
    groups: dict[tuple[int, ...], list[LatentSample]] = {}
    for sample in samples:
        groups.setdefault(sample.latent.shape, []).append(sample)
    return [collate(group) for group in groups.values()]


def _pad(latent: np.ndarray, height: int, width: int) -> np.ndarray:
    missing = ((0, 0), (0, height - latent.shape[1]), (0, width - latent.shape[2]))
    return np.pad(latent, missing, mode="edge") if height > latent.shape[1] or width > latent.shape[2] else latent
