"""`latentface detect` and detection.py: faces in latents, folders of latents, or photographs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentface.codecs import CODECS, VmSettings, open_codec
from latentface.codecs.at_hand import decoder_at_hand
from latentface.codecs.base import NO_CODEC, UNKNOWN_INDEX, Codec, check_side
from latentface.codecs.preview import JPEG_AI, preview_of_jpegai
from latentface.data.cache import CACHE_GB, Cache
from latentface.data.manifest import LatentEntry, ManifestRow, manifest_in
from latentface.data.mirror import shown
from latentface.data.pictures import decode_picture, read_picture, render, whole_row
from latentface.data.pretrained import codec_near, pretrained
from latentface.data.stores import PACK_NAME, rate_of, read_latent
from latentface.errors import LatentFaceError
from latentface.files import base_name, make_folder, refuse_link_outside, replacing
from latentface.inference.detector import Detector
from latentface.inference.draw import draw_faces, place_photograph, render_latent, save_picture
from latentface.inference.inputs import files_below, is_picture, paths_ahead, place_of, read_list, store_of
from latentface.machine import cores
from latentface.model.config import PRECISIONS
from latentface.model.faces import Faces, Thresholds
from latentface.options import option
from latentface.overlap import ahead
from latentface.progress import progress
from latentface.words import counted

TABLE_ROWS = 50
MANY_FACES = 300  # in a picture: 25 of 2,747 of WIDER FACE have more than 200
ROW_FORMATS = ("jsonl", "parquet")


@dataclass
class DetectConfig:
    """Finds faces in latents: prints a table, writes one JSON file and one picture per latent."""

    inputs: tuple[str, ...] = option(
        (),
        "latents (.npy), folders of them, packed splits, photographs with --codec; or URLs; @list.txt: a path a line",
        positional=True,
    )
    latent: tuple[str, ...] = option((), "the same as inputs")
    weight: str = option("", "checkpoint, e.g. weight_final.pth; empty: the detector that comes along")
    network: str = option("", "backbone that the checkpoint has to hold, e.g. resnet50; empty: whatever it holds")
    conf: float = option(0.5, "lowest confidence of a face, 0 to 1")
    nms: float = option(0.4, "IoU from which the weaker of two boxes goes")
    rate: int | None = option(
        None, "rate of the latents; without it from the name latent_<rate>.npy, else the only one the model knows"
    )
    image: str = option("", "photograph to draw over (one latent only)")
    codec: str = option("", "codec to encode photographs and to decode latents with", choices=("", *CODECS))
    codec_weights: str = option("", "folder of the codec's networks (jpegai and CompressAI's)")
    vm: str = option("", "checkout of the JPEG AI reference software, for --codec jpegai-vm")
    python: str = option("", "Python of the environment that this software was installed into")
    size: int = option(640, "side of the square that photographs are brought to before encoding")
    fit: str = option(
        "auto",
        "photographs: pad or stretch to the square; auto pads, and stretches --image where it fits so",
        choices=("auto", "pad", "stretch"),
    )
    out: str = option("detections", "folder for the results")
    no_pictures: bool = option(False, "write JSON only")
    batch_size: int = option(  # half of what `evaluate` takes: whole folders then need less than 1 GB with torch
        4, "latents of one shape per batch: more is faster on a GPU, and takes more memory"
    )
    cache_dir: str = option("", "folder for what is fetched from URLs; empty: latentface in your cache folder")
    cache_gb: float = option(CACHE_GB, "most that this folder may hold, in GB; shared by all processes that use it")
    device: str = option("", "e.g. cuda:0 or cpu; empty: a GPU where there is one")
    precision: str = option(
        "float32",
        "of a checkpoint's network; bfloat16: faster on GPUs and on CPUs with units for it, slower on others",
        choices=PRECISIONS,
    )
    rows: str = option(
        "", "for archives: files of many rows in place of one per latent, jsonl or parquet", choices=("", *ROW_FORMATS)
    )
    part: int = option(1000, "inputs in each of these files")
    processes: int = option(0, "of --rows; 0: one per core here, or per processor of the --ray cluster")
    ray: str = option("", "run --rows by Ray: local, or the address of a cluster")

    def __post_init__(self) -> None:
        if not 0 <= self.conf <= 1 or not 0 <= self.nms <= 1:
            raise LatentFaceError(f"--conf {self.conf} --nms {self.nms}: both lie between 0 and 1")
        if not self.inputs and not self.latent:
            raise LatentFaceError("nothing to look at: give latents, folders or photographs; see --help")
        if self.batch_size < 1 or not 16 <= self.size <= 16384:
            raise LatentFaceError("--batch_size has to be 1 or more and --size 16 to 16384")
        if self.part < 1 or self.processes < 0:
            raise LatentFaceError("--part has to be 1 or more and --processes 0 or more")
        if self.rows and self.image:
            raise LatentFaceError("--rows draws no pictures: leave --image out")
        if (self.ray or self.processes) and not self.rows:
            raise LatentFaceError("--processes and --ray go with --rows: say --rows jsonl or --rows parquet")

    @property
    def places(self) -> list[Path]:
        """All inputs but lists; of a URL what stands for it here, in each process once this was asked."""
        cache = Cache.of(self.cache_dir, self.cache_gb)
        return [place_of(name, cache) for name in (*self.inputs, *self.latent) if not name.startswith("@")]

    @property
    def lists(self) -> list[str]:
        """The inputs that are lists of paths, `@list.txt`."""
        return [name for name in (*self.inputs, *self.latent) if name.startswith("@")]

    @property
    def vm_settings(self) -> VmSettings:
        """Of jpegai-vm."""
        return VmSettings(self.vm, self.python)

    def open_codec(self) -> Codec | None:
        """That of `--codec`; None for JPEG AI without its networks, which are for photographs: latents need none."""
        if not self.codec or (self.codec in JPEG_AI and not (self.codec_weights or self.vm)):
            return None
        codec = open_codec(self.codec, self.codec_weights or None, vm=self.vm_settings)
        check_side(codec, self.size)
        return codec


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
    _refuse_same_names(paths)
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
            _write(source, faces, config, detector, codec)
        return found

    looked_at = faces_found = 0
    coming = paths_ahead(batches, Cache.of(config.cache_dir, config.cache_gb))
    written = ahead(write, map(detect, ahead(read, coming)), workers=cores())
    for results in progress(written, "detecting", len(batches), unit="batch"):
        for source, faces in results:
            looked_at += 1
            faces_found += len(faces)
            print(_table(source, faces) if len(paths) == 1 else f"{source.name}: {counted(len(faces), 'face')}")
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


def codec_said(config: DetectConfig, codec: Codec | None) -> str:
    """What the latents of `--codec` are called, which depends on the profile of jpegai-vm; empty without it."""
    if codec:
        return codec.name
    return "jpegai" if config.codec else ""  # opened without networks: see `open_codec`


def _codec_of_inputs(config: DetectConfig) -> str:
    """The codec to take weights for, where `--codec` does not say it."""
    places = [*config.places, *(next(read_list(name), Path()) for name in config.lists)]
    for place in places:
        if is_picture(place):
            raise LatentFaceError(
                f"{shown(place)}: a photograph; give --codec dct and --rate 50, or another codec and rate"
            )
    return codec_near(places, "--codec")


def _say_doubts(sources: list[Source], detector: Detector) -> None:
    """A line for each latent of an unknown codec that does not look like what the detector reads."""
    for source in sources:
        if source.codec or detector.codec != "jpegai":
            continue
        preview = preview_of_jpegai()
        model = preview.model_of(source.array, source.rate)
        if model is None:
            text = "its values are unlike a JPEG AI latent's: if it is none, faces found in it mean nothing"
        elif model != preview.usual_model(source.rate):
            rates = [str(rate) for rate in preview.model_of_rate if preview.usual_model(rate) == model]
            text = f"its values are those of rate {' or '.join(rates)}, not {source.rate}"
        else:
            continue
        print(f"note: {shown(source.path)}: {text}", file=sys.stderr)


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
    source = Source(_name(path), path, array, rate, row, codec_said(config, codec))
    index = UNKNOWN_INDEX if source.model_index is None else source.model_index
    return replace(source, array=np.array(detector.check_latent(array, shown(path), rate, index)))


def _name(path: Path) -> str:
    """Of the results: the picture's, and for the documented tree the rate's."""
    return f"{path.resolve().parent.name}_{path.stem}" if rate_of(path) is not None else base_name(path.name)


def _refuse_same_names(paths: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if seen.setdefault(_name(path), path) != path:
            raise LatentFaceError(f"{seen[_name(path)]} and {path} would have the same results file: detect them apart")


def _encode(path: Path, config: DetectConfig, detector: Detector, codec: Codec | None) -> Source:
    """A photograph, scaled with padding as the encoder does it by default, becomes a latent."""
    if codec is None and config.codec:
        codec = open_codec(config.codec)  # says what it needs
    if codec is None:
        raise LatentFaceError(f"{path}: a photograph; give --codec dct and --rate 50, or another codec and rate")
    rate = _only_rate(detector, path) if config.rate is None else config.rate
    rgb = read_picture(path)
    fit = "stretch" if config.fit == "stretch" else "pad"
    row = whole_row(path.name, rgb.shape[1], rgb.shape[0], config.size, fit, codec.stride)
    latent = codec.encode_rates(render(rgb, row), [rate], row.content_width * row.content_height)[0]
    return Source(_name(path), path, latent.array, rate, replace(row, latents={rate: LatentEntry.of(latent)}))


def _only_rate(detector: Detector, path: Path) -> int:
    if not detector.rates:  # a detector of pixels
        return 0
    if len(detector.rates) != 1:
        raise LatentFaceError(f"{path}: give --rate, one of {', '.join(map(str, detector.rates))}")
    return detector.rates[0]


def _write(source: Source, faces: Faces, config: DetectConfig, detector: Detector, codec: Codec | None) -> None:
    out = make_folder(config.out, "--out")
    content = describe(source, faces, detector.stride)
    content |= {
        "weight": Path(config.weight).name,
        "confidence": config.conf,
        "nms": config.nms,
        "faces": content.pop("faces"),
    }
    with replacing(out / f"{source.name}.json", flush=False) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if not config.no_pictures:
        ground, row = _ground(source, config, detector, codec), source.row
        if row:
            ground = ground[: row.content_height, : row.content_width]
        save_picture(out / f"{source.name}.png", draw_faces(ground, faces))


def describe(source: Source, faces: Faces, stride: int) -> dict[str, Any]:
    """Plain values for a file. Boxes are x1 y1 x2 y2 and landmarks five x y, picture pixels.

    `photograph_box` and `photograph_landmarks` are the same in pixels of the photograph, where it is known how that
    lies in the picture.
    """
    row, unknown = source.row, [None] * len(faces)
    boxes = row.to_photograph(faces.boxes) if row else unknown
    landmarks = row.points_to_photograph(faces.landmarks) if row else unknown
    return {
        "latent": shown(source.path),
        "codec": (source.codec_said or None) if source.codec in NO_CODEC else source.codec,
        "rate": source.rate,
        "picture_width": source.array.shape[2] * stride,
        "picture_height": source.array.shape[1] * stride,
        "photograph": _photograph(source.row),
        "faces": [
            {
                "box": _rounded(box, 2),
                "score": _rounded(score, 4),
                "landmarks": _rounded(points, 2),
                "photograph_box": _rounded(there, 2),
                "photograph_landmarks": _rounded(points_there, 2),
            }
            for box, score, points, there, points_there in zip(
                faces.boxes, faces.scores, faces.landmarks, boxes, landmarks, strict=True
            )
        ],
    }


def _rounded(values: np.ndarray | None, digits: int) -> Any:
    """Plain numbers with no more digits than that, which float32 would have; None for what is not known."""
    if values is None or not np.isfinite(values).all():
        return None
    return np.asarray(values, np.float64).round(digits).tolist()


def _photograph(row: ManifestRow | None) -> dict[str, object] | None:
    """Where the photograph lies in the picture: x_picture = (x - crop_x) * scale_x, likewise y; then mirrored."""
    if row is None:
        return None
    names = ("source_width", "source_height", "scale_x", "scale_y", "crop", "mirrored")
    return {name: getattr(row, name) for name in names}


def _ground(source: Source, config: DetectConfig, detector: Detector, codec: Codec | None) -> np.ndarray:
    """What to draw over: the photograph, else the decoded latent or a preview of it, else the latent itself."""
    stride = detector.stride
    height, width = (side * stride for side in source.array.shape[1:])
    if config.image:
        return place_photograph(config.image, width, height, stride, source.row, config.fit)
    if is_picture(source.path):
        return place_photograph(source.path, width, height, stride, source.row)
    decoder = codec or decoder_at_hand((source.codec, detector.codec), source.array, source.rate)
    if decoder is not None:
        return decode_picture(decoder, source.array, source.rate, source.row)
    return render_latent(source.array, stride)


def _table(source: Source, faces: Faces) -> str:
    """Boxes in the pixels that the input has: a photograph's own, or the coded picture's of a latent."""
    boxes, pixels = faces.boxes, "picture pixels"
    if source.row and is_picture(source.path):
        boxes, pixels = source.row.to_photograph(boxes), "pixels of the photograph"
    lines = [f"{source.name}: {counted(len(faces), 'face')}, {pixels}", "score      x1      y1      x2      y2"]
    for box, score in list(zip(boxes, faces.scores, strict=True))[:TABLE_ROWS]:
        lines.append(f"{score:5.2f} " + " ".join(f"{value:7.1f}" for value in box))
    if len(faces) > TABLE_ROWS:
        lines.append(f"... and {len(faces) - TABLE_ROWS} more, see the JSON file")
    return "\n".join(lines if len(faces) else lines[:1])
