"""Photographs: finding, reading, and placing them (or a part of them) in the square picture that is coded."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, WebPImagePlugin  # noqa: F401  the plugins register themselves

from latentface.codecs.base import Decoder, Latent
from latentface.data.manifest import ManifestRow
from latentface.errors import LatentFaceError
from latentface.files import PICTURE_SUFFIXES, base_name, refuse_link_outside, split_suffix

# Pillow goes by the content, not by the suffix, and knows more: PostScript among them, which another program runs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
GREY = 128  # of padding, and behind transparent pixels
CROP_RANGE = (0.3, 1.0)  # sides of random squares, of the short side: RetinaFace's
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from 89 megapixels on; over 179 it is an error
_ORIENTATION = 0x0112  # EXIF; 5 to 8 exchange width and height


def find_pictures(folder: str | Path) -> list[Path]:
    """All picture files below a folder, by suffix, sorted."""
    if not Path(folder).is_dir():
        raise LatentFaceError(f"{folder}: no such folder of pictures")
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names if not name.startswith("."))
    found = sorted(file for file in files if file.suffix.lower() in PICTURE_SUFFIXES)
    for file in found:
        refuse_link_outside(file, Path(folder))
    return found


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height as displayed (EXIF orientation applied), out of the file's header."""
    try:
        with _open(path) as image:
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception as error:  # the decoders raise whatever comes to them on a damaged file
        raise _unreadable(path, error) from error


def read_picture(path: str | Path) -> np.ndarray:
    """Any picture file -> uint8 [H, W, 3] RGB as displayed; LatentFaceError where it cannot be read."""
    try:
        with _open(path) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _open(path: str | Path) -> Image.Image:
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("not a file")  # opening a pipe would wait for ever
    return Image.open(path, formats=FORMATS)


def _unreadable(path: str | Path, error: Exception) -> LatentFaceError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return LatentFaceError(f"{path}: cannot be read as a picture ({reason})")


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits, which convert() would cut off at 255
        grey = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        behind = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


@dataclass(frozen=True)
class Matched:
    """Names joined with files."""

    found: dict[str, Path]
    missing: list[str]  # names without a file
    unnamed: list[Path]  # files without a name


def match_pictures(folder: str | Path, names: Iterable[str]) -> Matched:
    """Finds the picture of every name: at the same relative path with any picture suffix, else by unique base name."""
    files = find_pictures(folder)
    index: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        relative = file.relative_to(folder).as_posix()
        for key in (relative, "/" + split_suffix(relative)[0], "//" + base_name(relative)):
            index[key].append(file)
    found, missing = {}, []
    for name in names:
        relative = name.replace("\\", "/")
        keys = (relative, "/" + split_suffix(relative)[0], "//" + base_name(relative))
        unique = next((index[key][0] for key in keys if len(index.get(key, [])) == 1), None)
        if unique is None:
            missing.append(name)
        else:
            found[name] = unique
    used = set(found.values())
    return Matched(found, missing, [file for file in files if file not in used])


def whole_row(name: str, width: int, height: int, size: int, fit: str, stride: int) -> ManifestRow:
    """Where a whole photograph lies in the picture of `size` x `size`; no latents yet.

    `pad`: the long side becomes `size`, at the top left; `stretch`: both sides do.
    """
    longest = max(width, height)
    content_width = size if fit == "stretch" else max(1, round(width * size / longest))
    content_height = size if fit == "stretch" else max(1, round(height * size / longest))
    return ManifestRow(
        name=name,
        latents={},
        stride=stride,
        source_width=width,
        source_height=height,
        scale_x=content_width / width,
        scale_y=content_height / height,
        pad_right=size - content_width,
        pad_bottom=size - content_height,
    )


def framed_row(
    name: str, source_width: int, source_height: int, width: int, height: int, stride: int, fit: str
) -> ManifestRow:
    """Where a whole photograph lies in a picture of `width` x `height`, as far as sizes tell; no latents yet.

    `stretch`; `pad`: scaled to fit, top left; `auto`: stretched where the proportions are about the picture's, else
    padded; `none`: at its own size, top left.
    """
    scale_x, scale_y = (1.0, 1.0) if fit == "none" else (width / source_width, height / source_height)
    if fit == "pad" or (fit == "auto" and abs(scale_x / scale_y - 1) > 0.02):
        scale_x = scale_y = min(scale_x, scale_y)
    content_width, content_height = round(source_width * scale_x), round(source_height * scale_y)
    return ManifestRow(
        name, {}, stride, source_width, source_height, scale_x, scale_y, width - content_width, height - content_height
    )


def crop_name(name: str, number: int) -> str:
    """`a/b.jpg` -> `a/b__crop0.jpg`."""
    stem, suffix = split_suffix(name)
    return f"{stem}__crop{number}{suffix}"


def view_name(name: str, number: int | None) -> str:
    """The name of a crop, or of the whole photograph."""
    return name if number is None else crop_name(name, number)


def drawn(name: str, seed: int, number: int) -> np.random.Generator:
    """What is random about a picture: by seed, base name and number alone, so neither order nor workers matter."""
    digest = hashlib.sha256(base_name(name).encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, number, int.from_bytes(digest[:8], "little")])


def crop_row(
    name: str,
    width: int,
    height: int,
    size: int,
    stride: int,
    seed: int,
    number: int,
    sides: tuple[float, float] = CROP_RANGE,
) -> ManifestRow:
    """A random square, mirrored half the time, scaled to `size` x `size`.

    `sides`: least and largest side, as shares of the photograph's short side. What reaches beyond the photograph is
    padding on the right and at the bottom, so that shares above 1 make faces smaller.
    """
    share, across, down, coin = drawn(name, seed, number).random(4).tolist()
    side = max(1, round((sides[0] + share * (sides[1] - sides[0])) * min(width, height)))
    part_width, part_height = min(side, width), min(side, height)
    x, y = int(across * (width - part_width + 1)), int(down * (height - part_height + 1))
    scale = size / side
    return ManifestRow(
        name=crop_name(name, number),
        latents={},
        stride=stride,
        source_width=width,
        source_height=height,
        scale_x=scale,
        scale_y=scale,
        pad_right=size - round(part_width * scale),
        pad_bottom=size - round(part_height * scale),
        crop=(x, y, part_width, part_height),
        mirrored=coin < 0.5,
    )


def render(rgb: np.ndarray, row: ManifestRow) -> np.ndarray:
    """Photograph uint8 [H, W, 3] -> the picture that `row` describes, padding in mid-grey.

    Raises LatentFaceError where the photograph has another size than `row` says.
    """
    if rgb.shape[:2] != (row.source_height, row.source_width):
        raise LatentFaceError(
            f"{row.name}: the photograph has {rgb.shape[1]}x{rgb.shape[0]} pixels, the one that was encoded "
            f"{row.source_width}x{row.source_height}; give the same photographs"
        )
    x, y, width, height = row.part
    shrinking = min(row.scale_x, row.scale_y) < 1
    content = cv2.resize(
        rgb[y : y + height, x : x + width],
        (row.content_width, row.content_height),
        interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC,
    )
    if row.mirrored:
        content = content[:, ::-1]
    padding = ((0, row.pad_bottom), (0, row.pad_right), (0, 0))
    return np.ascontiguousarray(np.pad(content, padding, constant_values=GREY))


def decode_picture(codec: Decoder, array: np.ndarray, rate: int, row: ManifestRow | None) -> np.ndarray:
    """The picture that a latent holds, whole (with its padding)."""
    entry = row.latents.get(rate) if row else None
    height, width = array.shape[1] * codec.stride, array.shape[2] * codec.stride
    latent = Latent(
        array=np.asarray(array, dtype=np.float32),
        codec=codec.name,
        rate=rate,
        model_index=entry.model_index if entry else codec.usual_model(rate),
        step=entry.step if entry else None,
        bpp=(entry and entry.bpp) or 0.0,
        source_width=width,
        source_height=height,
        exact=bool(entry and entry.exact),
        stride=codec.stride,
    )
    return codec.decode(latent)
