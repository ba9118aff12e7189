"""What `latentface detect` looks at: which files its inputs mean, and a latent of each, read or just encoded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from latentface.codecs import open_codec
from latentface.codecs.base import UNKNOWN_INDEX, Codec
from latentface.data.manifest import LatentEntry, ManifestRow, manifest_in
from latentface.data.mirror import shown
from latentface.data.pictures import read_picture, render, whole_row
from latentface.data.stores import PACK_NAME, rate_of, read_latent
from latentface.errors import LatentFaceError
from latentface.files import base_name, refuse_link_outside
from latentface.inference.detect_config import DetectConfig
from latentface.inference.detector import Detector
from latentface.inference.inputs import files_below, is_picture, read_list, store_of
from latentface.words import counted


@dataclass(frozen=True)
class Source:
    """A latent to look at, ready for the detector."""

    name: str  # of the output files
    path: Path
    array: np.ndarray  # [C, h, w]
    rate: int
    row: ManifestRow | None  # what the manifest says of its picture, or what has just been encoded
    codec_said: str = ""  # by `--codec`

    @property
    def model_index(self) -> int | None:
        return self.entry.model_index if self.entry else None

    @property
    def entry(self) -> LatentEntry | None:
        return self.row.latents.get(self.rate) if self.row else None

    @property
    def codec(self) -> str:
        """The codec that made the latent; one of NO_CODEC where no manifest tells."""
        return self.entry.codec if self.entry else ""


def codec_said(config: DetectConfig, codec: Codec | None) -> str:
    """What the latents of `--codec` are called, which depends on the profile of jpegai-vm; empty without it."""
    if codec:
        return codec.name
    return "jpegai" if config.codec else ""  # opened without networks: see `open_codec`


def inputs_of(config: DetectConfig, detector: Detector) -> Iterator[Path]:
    """All that is to be looked at. Whether the paths in a list are there is not looked at: it may be long."""
    for place in config.places:
        yield from _expand(place, config, detector)
    for name in config.lists:
        yield from read_list(name)


def _expand(path: Path, config: DetectConfig, detector: Detector) -> Iterator[Path]:
    """A file, or the latents of one rate below a folder, or its photographs where a codec is given.

    Sorted; those of a packed split shard by shard.
    """
    if not path.is_dir():
        yield path
        return
    store = store_of(path)
    if store is None and any(path.glob(f"*/{PACK_NAME}")):
        raise LatentFaceError(f"{path}: a packed dataset; give one of its splits, such as {path}/val")
    rates = list(store.rates) if store else sorted({r for f in files_below(path) if (r := rate_of(f)) is not None})
    usable = [rate for rate in rates if not detector.rates or rate in detector.rates]
    rate = usable[0] if config.rate is None and len(usable) == 1 else config.rate
    if rates and rate not in rates and not config.codec:
        wanted = "several rates: give --rate" if rate is None else f"no latent of rate {rate}"
        raise LatentFaceError(f"{shown(path)}: {wanted}; there are {', '.join(map(str, rates))}")
    if store:
        if rate is not None:
            yield from (path / name / f"latent_{rate}.npy" for name in store.names_at(rate))
        return
    empty, others = True, 0
    for file in files_below(path):
        if _wanted(file, rate, config.codec):
            refuse_link_outside(file, path)
            empty = False
            yield file
        others += file.suffix == ".npy" and rate_of(file) is None
    if empty:
        raise LatentFaceError(f"{path}: {_nothing_wanted(path, rates, others)}")
    if others:
        left_out = f"{counted(others, '.npy file')} left out, not called latent_<rate>.npy"
        print(f"note: {shown(path)}: {left_out}", file=sys.stderr)


def _nothing_wanted(path: Path, rates: list[int], others: int) -> str:
    """What to say of a folder with latents of `rates` and `others`, .npy files of other names."""
    if any(map(is_picture, files_below(path))):
        return "photographs: give --codec and --rate"
    if rates:
        return f"no photographs, and no latent that --rate names; there are {', '.join(map(str, rates))}"
    if others:
        return f"{counted(others, '.npy file')}, none called latent_<rate>.npy: name the files, and give --rate"
    return "no latents in it, and no photographs"


def _wanted(path: Path, rate: int | None, codec: str) -> bool:
    return (rate is not None and rate_of(path) == rate) or (bool(codec) and is_picture(path))


def open_source(path: Path, config: DetectConfig, detector: Detector, codec: Codec | None) -> Source:
    """The latent of a file, checked, or of a photograph, encoded. Raises LatentFaceError where it cannot be read."""
    if is_picture(path):
        return _encode(path, config, detector, codec)
    store = store_of(path.parent.parent)
    array = store.read(path.parent.name, rate_of(path) or 0).values if store else read_latent(path)
    in_name = rate_of(path)
    if config.rate is not None and in_name not in (None, config.rate):
        raise LatentFaceError(f"{path}: its name says rate {in_name}, --rate {config.rate}: leave --rate out")
    named = in_name if config.rate is None else config.rate
    rate = _only_rate(detector, path) if named is None else named
    folder = path.resolve().parent
    split = store.split if store else folder.parent.parent
    rows = manifest_in(split) if in_name is not None else {}
    row = rows.get(folder.name)
    if row is not None:
        row.check_cells(array.shape, shown(path))
    source = Source(result_name(path), path, array, rate, row, codec_said(config, codec))
    index = UNKNOWN_INDEX if source.model_index is None else source.model_index
    return replace(source, array=np.array(detector.check_latent(array, shown(path), rate, index)))


def _encode(path: Path, config: DetectConfig, detector: Detector, codec: Codec | None) -> Source:
    """A photograph, scaled with padding as the encoder does it by default, becomes a latent."""
    if codec is None and config.codec:
        codec = open_codec(config.codec)  # says what it needs
    if codec is None:
        refuse_photograph(path, config)
    rate = _only_rate(detector, path) if config.rate is None else config.rate
    rgb = read_picture(path)
    fit = "stretch" if config.fit == "stretch" else "pad"
    row = whole_row(path.name, rgb.shape[1], rgb.shape[0], config.size, fit, codec.stride)
    latent = codec.encode_rates(render(rgb, row), [rate], row.content_width * row.content_height)[0]
    return Source(result_name(path), path, latent.array, rate, replace(row, latents={rate: LatentEntry.of(latent)}))


def refuse_photograph(path: Path, config: DetectConfig) -> NoReturn:
    """Raises LatentFaceError for a photograph that no codec is given for."""
    wanted = "--codec dct and --rate 50, or another codec and rate"
    if config.rate is not None:
        wanted = "--codec dct, or another codec"
    raise LatentFaceError(f"{shown(path)}: a photograph; give {wanted}")


def _only_rate(detector: Detector, path: Path) -> int:
    if not detector.rates:  # a detector of pixels
        return 0
    if len(detector.rates) != 1:
        raise LatentFaceError(f"{path}: give --rate, one of {', '.join(map(str, detector.rates))}")
    return detector.rates[0]


def result_name(path: Path) -> str:
    """Of the results: the picture's, and for the documented tree the rate's."""
    return f"{path.resolve().parent.name}_{path.stem}" if rate_of(path) is not None else base_name(path.name)


def refuse_same_names(paths: list[Path]) -> None:
    """Raises LatentFaceError where two inputs would write to the same files."""
    seen: dict[str, Path] = {}
    for path in paths:
        first = seen.setdefault(result_name(path), path)
        if first != path:
            raise LatentFaceError(f"{first} and {path} would have the same results file: detect them apart")
