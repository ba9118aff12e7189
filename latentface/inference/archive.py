"""`latentface detect --rows`: archives of any number of latents or photographs, by several processes.

    OUT/_inputs.jsonl      what is looked at, a path a line, in a fixed order
    OUT/_parts.json        how many that are, their checksum, and the settings; written when _inputs.jsonl is complete
    OUT/part-00000.jsonl   a row for each of the first `--part` inputs, in their order (or .parquet), and so on

A part is there, complete, or it is not. So every input has exactly one row however often a worker died and a part was
begun, and a run that is started again makes the parts that are missing. A latent that cannot be read has a row too,
with the reason. No process holds more than a part and, of a packed split or a tree with a manifest, its index.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from latentface.codecs.base import Codec
from latentface.data.mirror import shown, unshown
from latentface.errors import LatentFaceError
from latentface.files import make_folder, parse_json, replacing, sha256
from latentface.inference.detect import find_faces, load_detector, weights_of
from latentface.inference.detect_config import DetectConfig
from latentface.inference.detector import Detector
from latentface.inference.inputs import release
from latentface.inference.results import describe
from latentface.inference.rows import row_writer
from latentface.inference.sources import Source, codec_said, inputs_of, open_source
from latentface.lock import sole_writer
from latentface.machine import cores, keep_memory
from latentface.model.predict import pick_device
from latentface.progress import progress
from latentface.words import counted
from latentface.workers import Engine, Failure, run_items

# Readers of Parquet folders leave names with an underscore out.
INPUTS_NAME, PARTS_NAME = "_inputs.jsonl", "_parts.json"
SETTINGS = (  # of all rows
    "rows", "part", "conf", "nms", "rate", "codec", "codec_weights", "size", "fit", "batch_size", "precision",
)  # fmt: skip
FIELDS = 3  # to be counted up when rows get other fields, or other values in them: those of one folder have to be alike
NAMED = 3  # inputs of a part that a message gives


class Part(NamedTuple):
    """Which inputs: `length` lines of _inputs.jsonl from byte `offset` on."""

    number: int
    offset: int
    length: int


class Counts(NamedTuple):
    """What a part has come to."""

    faces: int
    errors: int


@dataclass(frozen=True)
class Archive:
    """All that a worker has to know; pickled."""

    config: DetectConfig  # with its weights
    threads: int

    def path(self, part: Part) -> Path:
        return Path(self.config.out) / f"part-{part.number:05d}.{self.config.rows}"

    def inputs(self, part: Part) -> list[Path]:
        with (Path(self.config.out) / INPUTS_NAME).open("rb") as file:
            file.seek(part.offset)
            return [unshown(json.loads(line)) for line in islice(file, part.length)]


def run_archive(config: DetectConfig) -> int:
    """Makes the parts that are missing; exit code 2 if none of their inputs could be looked at.

    Raises LatentFaceError, before any work, for a folder with rows of other inputs or settings, and at the end for
    parts whose workers died each time.
    """
    row_writer(config.rows)  # whether it can
    codec = config.open_codec()
    config = replace(config, weight=weights_of(config, codec))
    detector = load_detector(config, config.weight)
    detector.check_codec(codec_said(config, codec), f"--codec {config.codec}")
    gpu = pick_device(config.device).type == "cuda"
    processes = config.processes or int(gpu and not config.ray)  # of which each would hold a GPU's memory of its own
    engine = Engine(processes, config.ray, gpu)
    archive = Archive(config, threads=1 if config.ray else max(1, cores() // (processes or cores())))
    with sole_writer(make_folder(config.out, "--out"), "--out"):
        parts = _plan(config, inputs_of(config, detector))
        missing = [part for part in parts if not archive.path(part).exists()]
        for left in Path(config.out).glob(".part-*.tmp"):  # by a worker that was killed
            left.unlink()
        counts, failed = _run(archive, missing, engine)
    if failed:
        raise _unfinished(archive, failed, len(missing))
    looked_at = sum(part.length for part in missing)
    came_to = f"{counted(counts.faces, 'face')}, {counted(counts.errors, 'input')} with errors"
    now = f"{len(missing)} of them written now: {came_to}"
    print(
        f"{counted(sum(part.length for part in parts), 'input')} in {counted(len(parts), 'part')}, "
        f"{now if missing else 'all of which were there already'}; rows in {config.out}/"
    )
    return 2 if looked_at and counts.errors == looked_at else 0


def _unfinished(archive: Archive, failed: list[Part], begun: int) -> LatentFaceError:
    first, others = failed[0], begun - len(failed)
    names = ", ".join(map(shown, archive.inputs(first)[:NAMED]))
    return LatentFaceError(
        f"{archive.path(first)}: {Failure().reason}; it holds {first.length} inputs from {names} on; {others} other "
        "parts were written: run the same command again, with fewer --processes"
    )


def _run(archive: Archive, parts: list[Part], engine: Engine) -> tuple[Counts, list[Part]]:
    """Faces and errors in what was written, and the parts that could not be."""
    faces = errors = 0
    failed = []
    with closing(run_items(parts, partial(open_worker, archive), engine)) as results:
        for part, result in progress(results, "detecting", len(parts), unit="part"):
            if isinstance(result, Failure):
                failed.append(part)
            else:
                faces += result.faces
                errors += result.errors
    return Counts(faces, errors), sorted(failed)


def open_worker(archive: Archive) -> Callable[[Part], Counts]:
    """What a worker does once: gives what it does with every part."""
    keep_memory()
    config = archive.config
    _ = config.places  # so that this process too knows what stands for URLs
    detector = load_detector(config, config.weight, archive.threads)
    return partial(do_part, archive=archive, detector=detector, codec=config.open_codec())


def do_part(part: Part, archive: Archive, detector: Detector, codec: Codec | None) -> Counts:
    """Looks at the inputs of a part and writes its file: the same one whoever does it, and whenever."""
    config, paths = archive.config, archive.inputs(part)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), config.batch_size):
        rows += _rows(paths[start : start + config.batch_size], config, detector, codec)
    release(paths)
    with replacing(archive.path(part), tag=f".{os.urandom(8).hex()}") as temporary:
        row_writer(config.rows)(temporary, rows)
    return Counts(sum(len(row["faces"]) for row in rows), sum(row["error"] is not None for row in rows))


def _rows(paths: list[Path], config: DetectConfig, detector: Detector, codec: Codec | None) -> Iterator[dict[str, Any]]:
    """One for each path, in their order."""
    opened = [_open(path, config, detector, codec) for path in paths]
    found = iter(find_faces([source for source in opened if isinstance(source, Source)], config, detector))
    for path, source in zip(paths, opened, strict=True):
        if isinstance(source, Source):
            yield describe(source, next(found), detector.stride) | {"error": None}
        else:
            nothing = dict.fromkeys(("codec", "rate", "picture_width", "picture_height", "photograph"))
            yield {"latent": shown(path), **nothing, "faces": [], "error": str(source)}


def _open(path: Path, config: DetectConfig, detector: Detector, codec: Codec | None) -> Source | LatentFaceError:
    try:
        source = open_source(path, config, detector, codec)
        detector.check_codec(source.codec, str(path))
        detector.check_rate(source.rate)
    except LatentFaceError as error:
        return error
    return source


def _plan(config: DetectConfig, inputs: Iterator[Path]) -> list[Part]:
    """The parts; writes down what they are of, or compares it with what was written down."""
    out = Path(config.out)
    settings = {name: getattr(config, name) for name in SETTINGS} | {"weight_sha256": sha256(Path(config.weight))}
    if begun := _begun(out):
        if begun.get("fields") != FIELDS:
            raise LatentFaceError(f"{out}: begun by another version, whose rows have other fields; give another --out")
        _refuse_others(out, begun["settings"], settings)
        parts, checksum = _cut(inputs, config.part, None)
        if checksum != begun["inputs_sha256"]:
            raise LatentFaceError(f"{out}: begun with other inputs ({begun['inputs']}); give the same or another --out")
        return parts
    if next(out.glob("part-*"), None):
        raise LatentFaceError(f"{out}: has parts but no {PARTS_NAME} that says what of; give another --out")
    with replacing(out / INPUTS_NAME) as temporary:
        parts, checksum = _cut(inputs, config.part, temporary)
    with replacing(out / PARTS_NAME) as temporary:
        count = sum(part.length for part in parts)
        weight = Path(config.weight).name  # for whoever reads it; what counts is its checksum
        content = {"inputs": count, "inputs_sha256": checksum, "weight": weight, "settings": settings, "fields": FIELDS}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return parts


def _refuse_others(out: Path, begun: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if begun.get(name) != value:
            was = begun.get(name)
            raise LatentFaceError(f"{out}: begun with {name} {was}, now it is {value}; give the same or another --out")


def _begun(out: Path) -> dict[str, Any] | None:
    path = out / PARTS_NAME
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content["settings"], dict) or not {"inputs", "inputs_sha256"} <= content.keys():
            raise ValueError("keys are missing")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LatentFaceError(f"{path}: not the description of an archive ({error}); give another --out") from error
    return content


def _cut(inputs: Iterator[Path], size: int, target: Path | None) -> tuple[list[Part], str]:
    """Parts of `size` inputs, and the checksum of their list, which is written to `target` where there is one."""
    parts: list[Part] = []
    checksum, offset = hashlib.sha256(), 0
    with open(target or os.devnull, "wb") as file:  # noqa: PTH123
        while lines := [json.dumps(shown(path)).encode() + b"\n" for path in islice(inputs, size)]:
            content = b"".join(lines)
            parts.append(Part(len(parts), offset, len(lines)))
            offset += len(content)
            checksum.update(content)
            file.write(content)
    if not parts:
        raise LatentFaceError("nothing to look at: the inputs hold no latents of that rate")
    return parts, checksum.hexdigest()
