"""The uncompressed picture of every sample, which a teacher looks at.

From the photographs themselves, which are read, cut and scaled anew each time; or from a set of pixels that holds the
same views ready made (`latentface encode --codec pixels` with the other set's settings), several times as fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from latentface.codecs.base import UNCODED
from latentface.data.manifest import MANIFEST_NAME, ManifestRow, read_manifest, source_base
from latentface.data.pictures import find_pictures, read_picture, render
from latentface.data.stores import latent_folder, open_store
from latentface.errors import LatentFaceError
from latentface.files import base_name


class Photographs(Protocol):
    """What was encoded, by the row of its manifest."""

    def of(self, row: ManifestRow) -> np.ndarray:
        """uint8 [H, W, 3]. Raises LatentFaceError for a file that cannot be read or is another picture."""
        ...


def open_photographs(folder: Path, rows: Iterable[ManifestRow]) -> Photographs:
    """A folder of photographs, or a split of pixels. Raises LatentFaceError where it lacks one of the rows' views."""
    if (folder / "train" / MANIFEST_NAME).is_file():
        raise LatentFaceError(
            f"--photographs {folder}: a dataset, not photographs; name its split of pixels, {folder / 'train'}"
        )
    coded = (folder / MANIFEST_NAME).is_file() and latent_folder(folder).is_dir()
    return _ReadyMade(folder, rows) if coded else _Files(folder, rows)


class _Files:
    def __init__(self, folder: Path, rows: Iterable[ManifestRow]) -> None:
        self.files = {base_name(path.name): path for path in find_pictures(folder)}
        for row in rows:
            if source_base(row) not in self.files:
                raise LatentFaceError(f"--photographs {folder}: no photograph of {row.base} in it")

    def of(self, row: ManifestRow) -> np.ndarray:
        return render(read_picture(self.files[source_base(row)]), row)


class _ReadyMade:
    def __init__(self, split: Path, rows: Iterable[ManifestRow]) -> None:
        self.store = open_store(latent_folder(split))
        views, self.rates = read_manifest(split / MANIFEST_NAME), dict[str, int]()
        for row in rows:
            view = views.get(row.base)
            rate = next((r for r, entry in view.latents.items() if entry.bpp_from == UNCODED), None) if view else None
            if view is None or rate is None or not self.store.has(row.base, rate):
                raise LatentFaceError(
                    f"--photographs {split}: holds no uncompressed {row.base} (latents, decoded pictures, other "
                    "photographs or fewer --crops?); make it by encode --codec pixels with the settings of the latents"
                )
            if settings := _differing(view, row):
                raise LatentFaceError(
                    f"--photographs {split}: {row.base} is not the view that the latent is of; encode it with the same "
                    + settings
                )
            self.rates[row.base] = rate

    def of(self, row: ManifestRow) -> np.ndarray:
        stored = self.store.read(row.base, self.rates[row.base])
        array = stored.array  # [3, H, W]; of a packed set it may be other numbers than bytes
        if array.dtype != np.uint8:
            array = np.clip(np.rint(stored.values), 0, 255).astype(np.uint8)
        return array.transpose(1, 2, 0)


def _differing(view: ManifestRow, row: ManifestRow) -> str:
    """What is to be the same for two views of one name to show the same pixels, and is not: a list for the user."""
    pairs = {
        "photographs": ((one.source_width, one.source_height) for one in (view, row)),
        "--size": (_side(one) for one in (view, row)),
        "--crop_range and --seed": ((one.crop, one.mirrored) for one in (view, row)),
    }
    named = [name for name, (first, second) in pairs.items() if first != second]
    if not named and (view.scale_x, view.scale_y) != (row.scale_x, row.scale_y):
        named = ["--fit"]
    return ", ".join(named)


def _side(row: ManifestRow) -> tuple[int, int]:
    """Of the picture that is coded, padding included."""
    return row.content_width + row.pad_right, row.content_height + row.pad_bottom
