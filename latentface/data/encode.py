"""Photographs and labels -> the documented tree of latents.

    OUT/latent/<base name>/latent_<rate>.npy    float32 [C, size / stride, size / stride]
    OUT/labels.txt                              in pixels of the coded picture
    OUT/latents.jsonl                           see `manifest.py`

Every picture is a square of `size` pixels; labels are clipped to the photograph in it. Labels belong to photographs
as displayed, with their EXIF orientation applied. A picture is done once its row is in the manifest and its files are
there, so a run that was stopped continues where it was. With `crops`, `<base name>__crop<k>` holds the k-th random
square of a photograph: learned latents cannot be mirrored or resized, so augmented copies are made beforehand.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentface.codecs import CODECS, PRECISIONS, VmSettings, open_codec
from latentface.codecs.base import Codec, check_side
from latentface.codecs.pixels import DecodedCodec
from latentface.data.encode_tree import EncodeSummary, Tree
from latentface.data.encode_worker import (
    CodecFactory,
    in_items,
    processes_of,
    run_here,
    run_items_of,
    views_at_once,
)
from latentface.data.labels import PictureLabels, read_labels
from latentface.data.pictures import CROP_RANGE, Matched, crop_name, find_pictures, match_pictures
from latentface.errors import LatentFaceError
from latentface.files import base_name, make_folder, name_problem
from latentface.lock import sole_writer
from latentface.options import option
from latentface.progress import progress
from latentface.workers import Engine

FITS = ("pad", "stretch")
NAMED = 3  # how many names a note gives
TRIAL = 64  # side of a picture that shows what a codec gives, pixels

Say = Callable[[str], None]


@dataclass(kw_only=True)
class EncodeConfig:
    """Encode photographs into a tree of latents with labels and a manifest; continues where it was stopped."""

    images: str = option(help="folder of photographs, searched with all folders below it")
    out: str = option(help="split to write, for example ROOT/train")
    labels: str | None = option(None, "label file in pixels of the photographs; without it all photographs are encoded")
    codec: str = option("dct", f"{', '.join(CODECS[:-1])}, or pixels: the pictures themselves, uncoded")
    codec_weights: str | None = option(None, "folder of the codec's networks")
    device: str = option("cpu", "where the codec's networks run: cpu or cuda")
    rates: tuple[int, ...] = option(
        (),
        "target bits per pixel x 100, of CompressAI's codecs the quality; each gives one latent_<rate>.npy; empty: all "
        "of the codec's (dct, jpegai: 12 25 50 75 100)",
    )
    size: int = option(640, "side of the coded picture, pixels")
    fit: str = option("pad", "keep the shape and pad with grey, or stretch to the square", choices=FITS)
    crops: int = option(0, "random square crops per photograph, besides the whole of it")
    crop_range: tuple[float, float] = option(
        CROP_RANGE, "least and largest side of crops, of the photograph's short side"
    )
    rates_per_view: int = option(
        0, "encode each picture and crop at so many of the rates only, drawn at random; 0: all"
    )
    seed: int = option(0, "of the crops and of --rates_per_view")
    workers: int = option(
        0, "processes; 0: one per core here, on a GPU as its memory allows; or per processor of the --ray cluster"
    )
    ray: str = option("", "encode by Ray: local, or the address of a cluster")
    limit: int | None = option(None, "only the first photographs, sorted by name")
    decoded: bool = option(False, "write the decoded pictures in place of the latents: for detectors of pixels")
    dtype: str = option("float32", "of the files; uint8 is for pixels", choices=("float32", "float16", "uint8"))
    vm: str | None = option(None, "checkout of the JPEG AI reference software, for jpegai-vm")
    python: str | None = option(None, "Python of the environment that this software was installed into")
    vm_profile: str = option("auto", "its profile, e.g. high; auto: the base operating point's, main or base")
    vm_timeout: float = option(600.0, "seconds that one of its commands may take; it runs two for each latent")
    precision: str = option(
        "float32", "of the codec's networks (jpegai); bfloat16: faster, values are about 2 % off, for training sets",
        choices=PRECISIONS,
    )  # fmt: skip

    @property
    def vm_settings(self) -> VmSettings:
        """Of jpegai-vm."""
        return VmSettings(self.vm, self.python, self.vm_profile, self.vm_timeout)

    def recorded(self) -> dict[str, Any]:
        """The settings that all rows of a manifest share."""
        names = ["codec", "size", "fit", "seed", "dtype", "precision", "decoded"]
        if self.codec == "jpegai-vm":
            names.append("vm_profile")
        return {name: getattr(self, name) for name in names} | {"crop_range": list(self.crop_range)}


def run(config: EncodeConfig) -> int:
    """The command: notes and progress on stderr, the summary on stdout."""
    try:
        summary = encode(config, say=_say)
    except KeyboardInterrupt:
        _say("stopped; finished pictures are kept: the same command continues")
        return 130
    print("\n".join(summary.lines()))
    return 0


def encode(
    config: EncodeConfig, codec_factory: CodecFactory | None = None, say: Say = lambda line: None
) -> EncodeSummary:
    """Writes the tree; raises LatentFaceError before any work where the settings cannot be met.

    `codec_factory(name, weights)` has to be importable in a new process if there are several workers; a script that
    calls this needs the usual `if __name__ == "__main__":` then.
    """
    start = time.monotonic()
    _check(config)
    codec_factory = codec_factory or partial(_open, config=config)
    codec: Codec | None
    codec = codec_factory(config.codec, config.codec_weights)
    config = _with_rates(config, codec)
    file_bytes = _file_bytes(codec, config)
    labels = read_labels(config.labels) if config.labels else None
    sources = _sources(config, labels, say)
    with sole_writer(make_folder(config.out, "--out"), "--out"):
        tree = Tree(config, file_bytes)
        tasks = list(tree.tasks(sources.found))
        tree.split.open()
        skipped: list[str] = []
        written = 0
        at_once = views_at_once(config, codec)
        items = in_items(config, tasks, at_once)
        processes = config.workers if config.ray else processes_of(config)
        engine = Engine(processes, config.ray, gpu=config.device.startswith("cuda"))
        if config.ray or min(processes, len(items)) > 1:
            codec = None  # each worker opens its own
            coming = run_items_of(config, codec_factory, items, at_once, engine)
        else:
            coming = run_here(config, codec, items, at_once)
        with closing(coming) as outcomes:
            for outcome in progress(outcomes, "encoding", len(tasks), unit="picture"):
                tree.split.add(outcome.rows)
                written += len(outcome.rows)
                if outcome.problem:
                    skipped.append(outcome.problem)
                    say(f"skipped {outcome.problem}")
        tree.split.close(labels)
    return replace(
        tree.summary(sources.found),
        written=written,
        skipped=skipped,
        seconds=time.monotonic() - start,
        missing=sources.missing,
        unlabelled=[str(path) for path in sources.unnamed],
    )


def _open(name: str, weights: str | None, config: EncodeConfig) -> Codec:
    codec = open_codec(name, weights, config.device, config.precision, config.vm_settings)
    return DecodedCodec(codec) if config.decoded else codec


def _check(config: EncodeConfig) -> None:
    problems = {
        "--rates has to name each rate once": len(set(config.rates)) != len(config.rates),
        "--size has to be 16 to 16384": not 16 <= config.size <= 16384,
        f"--fit has to be one of {', '.join(FITS)}": config.fit not in FITS,
        "--crops, --seed and --workers cannot be negative": min(config.crops, config.seed, config.workers) < 0,
        "--crop_range has to be two shares, the first above 0 and not above the second, at most 4": len(
            config.crop_range
        )
        != 2
        or not 0 < config.crop_range[0] <= config.crop_range[-1] <= 4,
        "--limit has to be at least 1": config.limit is not None and config.limit < 1,
        "--dtype has to be float32, float16 or uint8": config.dtype not in ("float32", "float16", "uint8"),
        "--dtype uint8 is for pixels: give --codec pixels, --decoded, or another --dtype": config.dtype == "uint8"
        and not (config.decoded or config.codec == "pixels"),
        f"--device {config.device}: not available here; give cpu, or cuda where there is a GPU": config.device != "cpu"
        and not (config.device.startswith("cuda") and torch.cuda.is_available()),
    }
    for message, wrong in problems.items():
        if wrong:
            raise LatentFaceError(message)
    if config.labels and Path(config.labels).resolve() == (Path(config.out) / "labels.txt").resolve():
        raise LatentFaceError(f"--labels {config.labels} would be overwritten; give another --out")


def _with_rates(config: EncodeConfig, codec: Codec) -> EncodeConfig:
    """Without `--rates`, those of the codec."""
    config = replace(config, rates=config.rates or codec.rates)
    if not 0 <= config.rates_per_view <= len(config.rates):
        raise LatentFaceError(f"--rates_per_view has to be 0 to {len(config.rates)}")
    return config


def _file_bytes(codec: Codec, config: EncodeConfig) -> dict[int, int]:
    """Array bytes of a latent by rate; the trial also lets the codec refuse a rate before any work."""
    check_side(codec, config.size)
    trial = np.random.default_rng(0).integers(0, 256, (TRIAL, TRIAL, 3), dtype=np.uint8)
    cell_bytes = (config.size // codec.stride) ** 2 * np.dtype(config.dtype).itemsize
    latents = codec.encode_rates(trial, config.rates)
    return {rate: latent.array.shape[0] * cell_bytes for rate, latent in zip(config.rates, latents, strict=True)}


def _sources(config: EncodeConfig, labels: dict[str, PictureLabels] | None, say: Say) -> Matched:
    """The photographs to encode, sorted by name and limited."""
    if labels is None:
        names = [path.relative_to(config.images).as_posix() for path in find_pictures(config.images)]
        _refuse_same_base(names)
    else:
        names = [picture.name for picture in labels.values()]
    matched = match_pictures(config.images, names)
    if not matched.found:
        wanted = f" that belongs to a name in {config.labels}" if labels else ""
        raise LatentFaceError(f"{config.images}: no picture in it{wanted}")
    for number, text, some in (
        (len(matched.missing), "labelled pictures have no file", matched.missing),
        (len(matched.unnamed), "files have no label", list(map(str, matched.unnamed))),
    ):
        if number:
            say(f"{config.images}: {number} {text}, left out: {', '.join(some[:NAMED])}{' ...' * (number > NAMED)}")
    found = dict(sorted(matched.found.items())[: config.limit])
    _refuse_same_base([*found, *(crop_name(name, k) for name in found for k in range(config.crops))])
    return replace(matched, found=found)


def _refuse_same_base(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if problem := name_problem(name):
            raise LatentFaceError(f"{name!r} cannot be used as a picture's name: {problem}")
        if seen.setdefault(base_name(name), name) != name:
            raise LatentFaceError(f"{seen[base_name(name)]} and {name} would share a directory; rename one")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
