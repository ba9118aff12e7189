"""Where labels lie: in picture pixels already, or in pixels of the photograph before it was scaled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from latentface.data.labels import PictureLabels, clip_labels, crop_labels, transform_labels
from latentface.data.manifest import LARGEST, ManifestRow
from latentface.data.pictures import find_pictures, picture_size
from latentface.errors import LatentFaceError
from latentface.files import base_name, parse_json


@dataclass(frozen=True)
class LabelFrame:
    """How to bring labels into picture pixels.

    With `sizes` (base name -> width and height of the photograph) labels are source pixels: `stretch` means the
    photograph was scaled to the picture's width and height, `pad` that its long side was, the rest being padding on
    the right or at the bottom. Without it the manifest's word counts, else labels are in picture pixels.
    """

    sizes: dict[str, tuple[int, int]] | None = None
    fit: str = "stretch"

    def to_picture(self, labels: PictureLabels, row: ManifestRow | None, width: int, height: int) -> PictureLabels:
        """Labels in pixels of the `width` x `height` picture."""
        if row is not None and row.label_frame == "source":
            return view_labels(labels, row)
        if self.sizes is None:
            return labels
        if labels.base not in self.sizes:
            raise LatentFaceError(f"no size is known for {labels.name}: add it to --image_sizes or --image_dir")
        source_width, source_height = self.sizes[labels.base]
        scale_x, scale_y = width / source_width, height / source_height
        if self.fit == "pad":
            scale_x = scale_y = min(scale_x, scale_y)
        return transform_labels(labels, scale_x, scale_y)


def view_labels(labels: PictureLabels, row: ManifestRow) -> PictureLabels:
    """A photograph's labels, source pixels -> the labels of the picture that `row` describes, picture pixels."""
    x, y, width, height = row.part
    moved = transform_labels(
        crop_labels(labels, x, y, width, height) if row.crop else labels,
        row.scale_x,
        row.scale_y,
        x,
        y,
        row.content_width if row.mirrored else None,
    )
    return replace(clip_labels(moved, row.content_width, row.content_height), name=row.name)


def label_frame(frame: str, image_sizes: str, image_dir: str, fit: str) -> LabelFrame:
    """The settings `--label_frame --image_sizes --image_dir --label_fit` as one."""
    if image_dir:
        return LabelFrame(measure_sizes(image_dir), fit)
    if frame == "picture":
        return LabelFrame()
    if not image_sizes:
        raise LatentFaceError("--label_frame source needs --image_sizes FILE.json or --image_dir DIR")
    return LabelFrame(read_sizes(image_sizes), fit)


def read_sizes(path: str | Path) -> dict[str, tuple[int, int]]:
    """`{"a.jpg": [width, height]}` or `{"a.jpg": {"width": ..., "height": ...}}` -> base name -> (width, height).

    Where a picture has `source_width` and `source_height` too, those count: labels are in the photograph's pixels.
    """
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise LatentFaceError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise LatentFaceError(f"{path}: expected a JSON object of picture name -> [width, height]")
    return {base_name(name): _size(path, name, value) for name, value in content.items()}


def _size(path: str | Path, name: str, value: object) -> tuple[int, int]:
    if isinstance(value, dict):
        prefix = "source_" if "source_width" in value else ""
        value = [value.get(prefix + "width"), value.get(prefix + "height")]
    if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int and 0 < v <= LARGEST for v in value)):
        raise LatentFaceError(f"{path}: {name}: expected [width, height] in pixels")
    return value[0], value[1]


def measure_sizes(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Base name -> (width, height) of all pictures below a folder, from their headers, as displayed (EXIF)."""
    found = find_pictures(folder)
    if not found:
        raise LatentFaceError(f"--image_dir {folder}: no pictures in it")
    return {base_name(path.name): picture_size(path) for path in found}
