"""Where latents are read from: the documented tree, or a packed set (`packed.py`). Both are a `LatentStore`."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from latentface.array_files import as_latent, open_npy
from latentface.errors import LatentFaceError
from latentface.files import refuse_link_outside, replacing

PACK_NAME = "pack.json"  # its presence says that a folder is packed
LARGEST_LATENT = 1 << 29  # numbers; a picture of 16384x16384 has half as many. Files with holes cost nothing to make
_LATENT_NAME = re.compile(r"latent_([0-9]{1,8})\.npy")


@dataclass(frozen=True, slots=True)
class StoredLatent:
    """A latent as it lies in its file; its values are `array * scale + offset` where there is a scale."""

    array: np.ndarray  # [C, h, w], a view of the file
    scale: np.ndarray | None = None  # float32 [C]
    offset: np.ndarray | None = None

    @property
    def values(self) -> np.ndarray:
        """float32 [C, h, w]."""
        return to_float(self.array, self.scale, self.offset)


class LatentStore(Protocol):
    """Latents by picture and rate. `latent_dir` is the folder that the user named."""

    latent_dir: Path
    split: Path  # where labels and manifest are
    stride: int | None  # picture pixels per cell, where the store knows it
    checked: bool  # whether all values are known to be finite

    def names(self) -> list[str]:
        """Pictures that there is anything of, sorted."""
        ...

    def has(self, name: str, rate: int) -> bool: ...

    def shape(self, name: str, rate: int) -> tuple[int, int, int]:
        """(channels, rows, columns), without reading the values."""
        ...

    def read(self, name: str, rate: int) -> StoredLatent:
        """Raises LatentFaceError for what is missing or no latent."""
        ...

    def place(self, name: str, rate: int) -> str:
        """How to name a latent in a message."""
        ...


def to_float(array: np.ndarray, scale: np.ndarray | None, offset: np.ndarray | None) -> np.ndarray:
    """Stored numbers [C, h, w] -> float32 values, by the tables [C] of int8 where there are any."""
    values = np.asarray(array, dtype=np.float32)
    return values if scale is None or offset is None else values * scale[:, None, None] + offset[:, None, None]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


class TreeStore:
    """`LATENT_DIR/<picture>/latent_<rate>.npy`."""

    checked = False

    def __init__(self, latent_dir: Path) -> None:
        self.latent_dir, self.split = latent_dir, latent_dir.parent
        self.stride: int | None = None

    def names(self) -> list[str]:
        """See `LatentStore.names`."""
        try:
            with os.scandir(self.latent_dir) as entries:  # tells folders apart without asking for each
                folders = sorted(filter(_is_folder, entries), key=lambda entry: entry.name)
        except OSError as error:
            raise LatentFaceError(
                f"{self.latent_dir}: cannot be listed ({error.strerror}); give a folder of latents"
            ) from error
        for folder in folders:
            if folder.is_symlink():
                refuse_link_outside(Path(folder.path), self.latent_dir)
        return [folder.name for folder in folders]

    def has(self, name: str, rate: int) -> bool:
        """See `LatentStore.has`."""
        return self.path(name, rate).is_file()

    def shape(self, name: str, rate: int) -> tuple[int, int, int]:
        """See `LatentStore.shape`."""
        return self.read(name, rate).array.shape  # type: ignore[return-value]

    def read(self, name: str, rate: int) -> StoredLatent:
        """See `LatentStore.read`."""
        path = self.path(name, rate)
        refuse_link_outside(path, self.latent_dir)
        return StoredLatent(read_latent(path))

    def place(self, name: str, rate: int) -> str:
        """See `LatentStore.place`."""
        return str(self.path(name, rate))

    def path(self, name: str, rate: int) -> Path:
        """Of a latent, whether it is there or not."""
        return self.latent_dir / name / f"latent_{rate}.npy"


def latent_folder(split: Path) -> Path:
    """What of `ROOT/<split>` holds the latents: itself where it is packed, `latent/` in the documented tree."""
    return split if (split / PACK_NAME).is_file() else split / "latent"


def open_store(latent_dir: str | Path) -> LatentStore:
    """The store of a folder of latents or of a packed split, also where `local` has made the folder for a URL."""
    from latentface.data.mirror import local, mirror_of

    latent_dir = local(latent_dir)
    if mirror := mirror_of(latent_dir):
        from latentface.data.remote_stores import RemotePack, RemoteTree

        return RemotePack(mirror) if (latent_dir / PACK_NAME).is_file() else RemoteTree(mirror)
    if (latent_dir / PACK_NAME).is_file():
        from latentface.data.packed import PackedStore

        return PackedStore(latent_dir)
    return TreeStore(latent_dir)


def find_labels(latent_dir: Path) -> Path:
    """`labels.txt` beside a latent directory, else in it; of a packed split, in it."""
    packed = (latent_dir / PACK_NAME).is_file()
    for place in (
        (latent_dir / "labels.txt",) if packed else (latent_dir.parent / "labels.txt", latent_dir / "labels.txt")
    ):
        if place.is_file():
            refuse_link_outside(place, place.parent)
            return place
    where = f"neither here nor in {latent_dir.name}/"
    raise LatentFaceError(f"{latent_dir.parent}: no labels.txt, {where}; put it there or name it, see --help")


def available_rates(latent_dir: str | Path, sample: int = 50) -> list[int]:
    """The rates found of the first pictures of a latent directory, or in a packed split."""
    store = open_store(latent_dir)
    if not isinstance(store, TreeStore):
        return list(store.rates)  # type: ignore[attr-defined]
    folders = [store.latent_dir / name for name in store.names()[:sample]]
    return sorted({rate for folder in folders for file in folder.iterdir() if (rate := rate_of(file)) is not None})


def read_latent(path: str | Path) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped, as [C, h, w].

    Raises LatentFaceError for anything else than a float or integer array [C, h, w] or [1, C, h, w]. Nothing in the
    file is executed. Values are not looked at, so they may be NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise LatentFaceError(f"{path}: no such file")
    array = as_latent(open_npy(path), path)
    if array.size > LARGEST_LATENT:
        raise LatentFaceError(f"{path}: shape {list(array.shape)}: larger than the latent of any picture")
    return array


def save_latent(path: Path, array: np.ndarray, dtype: str) -> None:
    """Writes [C, h, w] as `.npy`, complete or not at all."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=dtype)
    if not np.isfinite(stored).all():
        raise LatentFaceError(f"{path}: the codec's latent is not finite as {dtype}; encode with --dtype float32")
    content = io.BytesIO()  # NumPy's own writing to a file does not say why a disk refused
    np.save(content, stored, allow_pickle=False)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def rate_of(path: str | Path) -> int | None:
    """75 for `.../latent_75.npy`; None for another name."""
    found = _LATENT_NAME.fullmatch(Path(path).name)
    return int(found[1]) if found else None
