"""`latentface detect` and detection.py: faces in latents, folders of latents, or photographs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from latentface.codecs.base import Codec
from latentface.codecs.preview import preview_of_jpegai
from latentface.data.cache import Cache
from latentface.data.mirror import shown
from latentface.data.pretrained import codec_near, pretrained
from latentface.errors import LatentFaceError
from latentface.inference.detect_config import DetectConfig
from latentface.inference.detector import Detector
from latentface.inference.inputs import is_picture, paths_ahead, read_list, store_of
from latentface.inference.results import table, write_result
from latentface.inference.sources import (
    Source,
    codec_said,
    inputs_of,
    open_source,
    refuse_photograph,
    refuse_same_names,
)
from latentface.machine import cores
from latentface.model.faces import Faces, Thresholds
from latentface.overlap import ahead
from latentface.progress import progress
from latentface.words import counted

MANY_FACES = 300  # in a picture: 25 of 2,747 of WIDER FACE have more than 200


def run(config: DetectConfig) -> int:
    """Finds the faces; exit code 2 if nothing could be looked at."""
    for place in config.places:  # before anything that takes time
        if not place.exists() and not store_of(place.parent.parent):
            raise LatentFaceError(f"{place}: no such file or folder")
    if config.rows:
        from latentface.inference.archive import run_archive

        return run_archive(config)
    return _run(config)


def _run(config: DetectConfig) -> int:
    """Reads the next batches and writes the last ones while the network looks at one: memory does not grow."""
    codec = config.open_codec()
    config = replace(config, weight=weights_of(config, codec))
    detector = load_detector(config, config.weight)
    paths = list(inputs_of(config, detector))
    if config.image and len(paths) > 1:
        raise LatentFaceError(f"--image goes with one latent, these are {len(paths)}: leave it out, or give one latent")
    refuse_same_names(paths)
    detector.check_codec(codec_said(config, codec), f"--codec {config.codec}")
    batches = [paths[i : i + config.batch_size] for i in range(0, len(paths), config.batch_size)]

    def read(batch: list[Path]) -> list[Source]:
        sources = list(_readable(batch, config, detector, codec, strict=len(paths) == 1))
        if batch is batches[0]:  # some milliseconds for each: too dear for all of a large folder
            _say_doubts(sources, detector)
        return sources

    def detect(sources: list[Source]) -> list[tuple[Source, Faces]]:
        return list(zip(sources, find_faces(sources, config, detector), strict=True))

    def write(found: list[tuple[Source, Faces]]) -> list[tuple[Source, Faces]]:
        for source, faces in found:
            write_result(source, faces, config, detector, codec)
        return found

    looked_at = faces_found = 0
    coming = paths_ahead(batches, Cache.of(config.cache_dir, config.cache_gb))
    written = ahead(write, map(detect, ahead(read, coming)), workers=cores())
    for results in progress(written, "detecting", len(batches), unit="batch"):
        for source, faces in results:
            looked_at += 1
            faces_found += len(faces)
            print(table(source, faces) if len(paths) == 1 else f"{source.name}: {counted(len(faces), 'face')}")
    skipped = len(paths) - looked_at
    pictures = counted(looked_at, "picture") + (f", {skipped} skipped" if skipped else "")
    print(f"{counted(faces_found, 'face')} in {pictures}; results in {config.out}/")
    if faces_found > MANY_FACES * looked_at:
        mean = faces_found // looked_at
        most = ", the most that are kept" if mean == Thresholds().keep else ""
        print(f"note: {mean} faces a picture{most}: crowds, a low --conf, or a network that knows no faces yet")
    return 0 if looked_at else 2


def weights_of(config: DetectConfig, codec: Codec | None) -> str:
    """`--weight`, else the file that comes along for the codec."""
    return config.weight or str(pretrained(codec_said(config, codec) or _codec_of_inputs(config)))


def load_detector(config: DetectConfig, weight: str, threads: int = 0) -> Detector:
    """The weights as the settings want them."""
    network = config.network or None
    return Detector.load(weight, network=network, device=config.device, threads=threads, precision=config.precision)


def _codec_of_inputs(config: DetectConfig) -> str:
    """The codec to take weights for, where `--codec` does not say it."""
    places = [*config.places, *(next(read_list(name), Path()) for name in config.lists)]
    for place in places:
        if is_picture(place):
            refuse_photograph(place, config)
    return codec_near(places, "--codec")


def _say_doubts(sources: list[Source], detector: Detector) -> None:
    """A line for each latent of an unknown codec that does not look like what the detector reads."""
    for source in sources:
        if not source.codec and (doubt := _doubt(source, detector.codec)):
            print(f"note: {shown(source.path)}: {doubt}", file=sys.stderr)


def _doubt(source: Source, wanted: str) -> str:
    """What speaks against a latent of the codec `wanted`, of those that weights come along for; empty: nothing."""
    if wanted not in ("jpegai", "dct"):
        return ""
    preview = preview_of_jpegai()
    model = preview.model_of(source.array, source.rate)
    if wanted == "dct":
        return "" if model is None else "its values are like a JPEG AI latent's, not like those of dct"
    if model is None:
        return "its values are unlike a JPEG AI latent's: if it is none, faces found in it mean nothing"
    if model == preview.usual_model(source.rate):
        return ""
    rates = [str(rate) for rate in preview.model_of_rate if preview.usual_model(rate) == model]
    return f"its values are those of rate {' or '.join(rates)}, not {source.rate}"


def _readable(
    paths: list[Path], config: DetectConfig, detector: Detector, codec: Codec | None, *, strict: bool
) -> Iterator[Source]:
    """What can be looked at; the rest is named and skipped, unless `strict`."""
    for path in paths:
        try:
            yield open_source(path, config, detector, codec)
        except LatentFaceError as error:
            if strict:
                raise
            print(f"skipped {error}", file=sys.stderr)


def find_faces(sources: list[Source], config: DetectConfig, detector: Detector) -> list[Faces]:
    for source in sources:
        detector.check_codec(source.codec, shown(source.path))
    found = detector(
        [source.array for source in sources],
        [source.rate for source in sources],
        model_index=[source.model_index for source in sources],
        confidence=config.conf,
        nms=config.nms,
        batch_size=config.batch_size,
    )
    return [
        faces.within(source.row.content_width, source.row.content_height) if source.row else faces
        for source, faces in zip(sources, found, strict=True)
    ]
