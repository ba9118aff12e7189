"""Everything around the networks on the clock: the encoder, WIDER evaluation, help, and what they take of memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from latentface.apps.bench_timing import Row, compare, comparison_of, elapsed, run_measured
from latentface.codecs import open_codec
from latentface.codecs.base import RATES, BatchCodec, Codec
from latentface.data.encode import EncodeConfig
from latentface.data.encode_worker import views_at_once
from latentface.data.labels import PictureLabels, write_labels
from latentface.data.pictures import find_pictures, read_picture, render, whole_row
from latentface.errors import LatentFaceError
from latentface.model.checkpoint import save_checkpoint
from latentface.model.config import ModelConfig
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace

SMALL = (8, 4, 4)  # of a latent in a set that is large by its number only


def encode_row(
    photographs: Path,
    codec_name: str,
    codec_weights: str,
    *,
    pictures: int,
    rounds: int,
    precision: str = "float32",
    device: str = "cpu",
    processes: int = 2,
) -> Row:
    """`latentface encode` on several processes beside a loop over pictures and rates in one: seconds of a picture.

    What starting takes (Python, imports, reading the networks) is left out on both sides: by the difference to a few
    pictures, so many that every process has some.
    """
    codec = open_codec(codec_name, codec_weights or None, device)
    few = processes * views_at_once(EncodeConfig(images="", out="", device=device), codec)
    chosen = find_pictures(photographs)[: max(pictures, 2 * few)]
    if len(chosen) <= few:
        raise LatentFaceError(f"{photographs}: {len(chosen)} photographs; timing the encoder needs {few + 1} or more")
    some = chosen[:pictures]  # of which one process needs no more to be timed

    command = ["encode", "--codec", codec_name, "--workers", str(processes), "--precision", precision]
    command += ["--device", device]
    command += ["--codec_weights", codec_weights] if codec_weights else []
    seconds, peak = np.empty((rounds, 2)), 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / "plain"
        plain.mkdir()
        _rate_by_rate(codec, chosen[:1], plain)  # reads the networks
        beginning, whole = (_copies(paths, folder / str(len(paths))) for paths in (chosen[:few], chosen))
        for turn in range(rounds):
            start, _ = _encoded(command, beginning)
            took, used = _encoded(command, whole)
            peak = max(peak, used)
            seconds[turn, 0] = (took - start) / (len(chosen) - few)
            seconds[turn, 1] = elapsed(partial(_rate_by_rate, codec, some, plain)) / len(some)
    threads = torch.get_num_threads()
    facts = {"pictures": len(chosen), "rates": RATES, "peak_mb_of_a_process": peak, "threads_of_one_process": threads}
    name = codec_name if precision == "float32" else f"{codec_name} in {precision}"
    on = "" if device == "cpu" else " on the GPU"
    count = "two" if processes == 2 else str(processes)
    goal = 1.8 if device == "cpu" else None
    return Row(f"encode, {name}{on}, {count} processes, one picture at five rates",
               f"one process{on} in float32, rate by rate", comparison_of(seconds), goal, facts)  # fmt: skip


def _copies(paths: list[Path], folder: Path) -> Path:
    """`folder`, made, with copies of the files in it."""
    folder.mkdir()
    for path in paths:
        shutil.copy(path, folder)
    return folder


def _encoded(command: list[str], images: Path) -> tuple[float, float]:
    """Seconds of `command` on a folder of photographs, and the most memory of one of its processes in MB."""
    with tempfile.TemporaryDirectory() as out:
        return run_measured([*command, "--images", str(images), "--out", str(Path(out) / "encoded")])


def _rate_by_rate(codec: Codec, paths: list[Path], out: Path) -> None:
    for path in paths:
        picture = _square(path, codec)
        for rate in RATES:
            np.save(out / f"{path.stem}_{rate}.npy", codec.encode(picture, rate).array)


def _square(path: Path, codec: Codec) -> np.ndarray:
    """A photograph as `encode` hands it to the codec unless told otherwise, uint8 [640, 640, 3]."""
    rgb = read_picture(path)
    return render(rgb, whole_row(path.name, rgb.shape[1], rgb.shape[0], 640, "pad", codec.stride))


def batch_row(photographs: Path, codec: BatchCodec, *, rounds: int, device: str) -> Row:
    """A GPU's networks on as many pictures as `encode` gives them at a time beside one at a time.

    From pixels in memory to quantised latents.
    """
    paths = find_pictures(photographs)[: views_at_once(EncodeConfig(images="", out="", device=device), codec)]
    pictures = [_square(path, codec) for path in paths]
    rates, pixels = [RATES] * len(pictures), [None] * len(pictures)

    def theirs() -> None:
        for picture in pictures:
            codec.encode_rates(picture, RATES)

    comparison = compare(lambda: codec.encode_batch(pictures, rates, pixels), theirs, rounds=rounds, device=device)
    return Row(f"{codec.name}: {len(pictures)} pictures at five rates together", "one after the other", comparison)


def wider_row(predictions: Path, ground_truth: Path, reference: Path, python: str, *, rounds: int) -> Row:
    """`latentface evaluate --predictions` beside a built checkout of the reference, each as a process of its own.

    `reference` is a folder with its `evaluation.py`, compiled for `python`.
    """
    seconds, peak = np.empty((rounds, 2)), 0.0
    theirs = [python, "evaluation.py", "-p", f"{predictions.resolve()}/", "-g", f"{ground_truth.resolve()}/"]
    with tempfile.TemporaryDirectory() as out:
        ours = ["evaluate", "--predictions", str(predictions), "--ground_truth", str(ground_truth), "--out", out]
        for turn in range(rounds):
            seconds[turn, 0], used = run_measured(ours)
            peak = max(peak, used)
            begin = time.perf_counter()
            subprocess.run(theirs, cwd=reference, check=True, capture_output=True)
            seconds[turn, 1] = time.perf_counter() - begin
    return Row("WIDER evaluation of 3,226 prediction files", "reference implementation in public use",
               comparison_of(seconds), 20.0, {"peak_mb": peak})  # fmt: skip


def help_seconds(rounds: int) -> float:
    """Median seconds of `latentface --help`, from the start of Python to its end."""
    command = [sys.executable, "-m", "latentface.cli", "--help"]
    start = partial(subprocess.run, command, check=True, capture_output=True)
    return float(np.median([elapsed(start) for _ in range(rounds)]))


def memory_facts(samples: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Peak memory (MB) and seconds of the commands that go through whole sets, on `samples` very small samples."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = small_tree(folder / "tree" / "val", samples)
        weight = small_model(folder / "weight.pth")
        photographs = small_photographs(folder / "photographs", samples)
        tree, model = ["--dataset_root", str(folder / "tree")], ["--weight", str(weight)]
        images = ["--images", str(photographs), "--size", "16", "--rates", "75"]
        quiet = ["--rate", "75", "--no_pictures"]
        commands = {
            "encode": ["encode", *images, "--out", str(folder / "encoded")],
            "pack": ["pack", str(folder / "tree"), "--out", str(folder / "packed"), "--dtype", "int8"],
            "check": ["check", str(folder / "tree")],
            "evaluate": ["evaluate", *model, *tree, "--out", str(folder / "scores")],
            "detect": ["detect", str(split / "latent"), *model, *quiet, "--out", str(folder / "found")],
        }
        facts: dict[str, Any] = {"samples": samples}
        for command, arguments in commands.items():
            seconds, peak = run_measured(arguments)
            facts[command] = {"peak_mb": peak, "seconds": seconds}
            say(f"{command}: {samples} samples in {seconds:.0f} s, {peak:.0f} MB at most")
    return facts


def folder_facts(latents: Tensor, rate: int, weight: Path, pictures: int = 200) -> dict[str, Any]:
    """`latentface detect` on a folder of real-sized latents, from start to end: throughput, memory, a million."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(pictures):
            (folder / "latent" / f"picture_{number}").mkdir(parents=True)
            path = folder / "latent" / f"picture_{number}" / f"latent_{rate}.npy"
            np.save(path, latents[number % len(latents)].numpy())
        command = ["detect", str(folder / "latent"), "--weight", str(weight), "--rate", str(rate), "--no_pictures"]
        alone = [command[0], str(folder / "latent" / "picture_0"), *command[2:], "--out", str(folder / "one")]
        first, peak_of_one = run_measured(alone)
        seconds, peak = run_measured([*command, "--out", str(folder / "all")])
    each = (seconds - first) / (pictures - 1)
    return {
        "pictures": pictures,
        "seconds": seconds,
        "seconds_of_one_picture_alone": first,
        "peak_mb": peak,
        "peak_mb_of_one_picture": peak_of_one,
        "pictures_per_second": 1 / each,
        "hours_for_a_million": each * 1e6 / 3600,
    }


def small_tree(split: Path, samples: int) -> Path:
    """A split of `samples` latents of rate 75, [8, 4, 4] each, one face in each."""
    random = np.random.default_rng(0)
    labels = []
    for number in range(samples):
        folder = split / "latent" / f"picture_{number}"
        folder.mkdir(parents=True)
        np.save(folder / "latent_75.npy", random.standard_normal(SMALL, dtype=np.float32))
        box, points = np.array([[8.0, 8, 40, 40]]), np.full((1, 5, 2), np.nan)
        labels.append(PictureLabels(f"{folder.name}.jpg", box, points, np.zeros(1, bool)))
    write_labels(split / "labels.txt", labels)
    return split


def small_photographs(folder: Path, samples: int) -> Path:
    """`samples` PNG files of 16 x 16 random pixels."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(samples):
        cv2.imwrite(str(folder / f"picture_{number}.png"), random.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    return folder


def small_model(path: Path) -> Path:
    """A light model of random weights for `small_tree`."""
    torch.manual_seed(0)
    channels = SMALL[0]
    statistics = LatentStatistics(torch.zeros(1, channels), torch.ones(1, channels), (75,), (0,), (), ())
    save_checkpoint(path, RetinaFace(ModelConfig("light", "shuffle", channels=channels), statistics), {"rates": [75]})
    return path
