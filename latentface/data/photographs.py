"""The uncompressed picture of every sample, which a teacher looks at.

From the photographs themselves, which costs some 15 ms a picture (reading, cutting, scaling), or from a set of pixels
that holds the same views ready made (`latentface encode --codec pixels` with the other set's settings): 1 ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from latentface.data.manifest import MANIFEST_NAME, ManifestRow, read_manifest, source_base
from latentface.data.pictures import find_pictures, read_picture, render
from latentface.data.stores import available_rates, latent_folder, open_store
from latentface.errors import LatentFaceError
from latentface.files import base_name


class Photographs(Protocol):
    """`of(row)`: what was encoded, uint8 [H, W, 3]."""

    def of(self, row: ManifestRow) -> np.ndarray: ...


def open_photographs(folder: Path, rows: Iterable[ManifestRow]) -> Photographs:
    """A folder of photographs, or a split of pixels. Raises LatentFaceError where it lacks one of the rows' views."""
    coded = (folder / MANIFEST_NAME).is_file() and latent_folder(folder).is_dir()
    return _ReadyMade(folder, rows) if coded else _Files(folder, rows)


class _Files:
    def __init__(self, folder: Path, rows: Iterable[ManifestRow]) -> None:
        self.files = {base_name(path.name): path for path in find_pictures(folder)}
        for row in rows:
            if source_base(row) not in self.files:
                raise LatentFaceError(f"{folder}: no photograph of {row.base} in it")

    def of(self, row: ManifestRow) -> np.ndarray:
        return render(read_picture(self.files[source_base(row)]), row)


class _ReadyMade:
    def __init__(self, split: Path, rows: Iterable[ManifestRow]) -> None:
        self.store = open_store(latent_folder(split))
        self.rate = available_rates(self.store.latent_dir)[0]
        views = read_manifest(split / MANIFEST_NAME)
        for row in rows:
            view = views.get(row.base)
            if view is None or not self.store.has(row.base, self.rate):
                raise LatentFaceError(f"{split}: no view {row.base} in it; encode it with as many --crops")
            if view.stride != 1:
                raise LatentFaceError(f"{split}: latents; a teacher looks at pixels (encode --codec pixels)")
            if _place(view) != _place(row):
                raise LatentFaceError(
                    f"{split}: {row.base} is another part of its photograph; encode it with the same --size, "
                    "--fit, --crop_range and --seed"
                )

    def of(self, row: ManifestRow) -> np.ndarray:
        array = self.store.read(row.base, self.rate).array  # [3, H, W]
        return np.asarray(array, dtype=np.uint8).transpose(1, 2, 0)


def _place(row: ManifestRow) -> tuple[object, ...]:
    """Which pixels of the photograph a view shows, and how large. Padding may differ by up to a cell."""
    return row.crop, row.mirrored, row.scale_x, row.scale_y, row.source_width, row.source_height
