"""The whole path in a few minutes: draw pictures, encode them, train, evaluate, detect. Nothing is downloaded.

demo/photos/{train,val}/      drawn pictures and their labels
demo/dataset/{train,val}/     the documented tree, made by the `dct` codec at five rates
demo/run/                     the experiment directory
demo/evaluation/              AP at every rate, prediction files
demo/detections/              faces found in latents, drawn over the decoded pictures
demo/how_it_looks.png         a picture, its latent, and the faces found in the latent
demo/summary.json             AP and face counts per rate, settings, seconds per step, versions
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from latentface.apps.drawing import draw_picture
from latentface.codecs.base import RATES
from latentface.data import encode
from latentface.data.labels import PictureLabels, read_labels, write_labels
from latentface.errors import LatentFaceError
from latentface.files import make_folder, replacing
from latentface.inference import detect, evaluate
from latentface.inference.draw import render_latent, save_picture
from latentface.machine import cores, no_interrupt
from latentface.options import option
from latentface.progress import progress
from latentface.training.config import TrainConfig
from latentface.training.journal import read_rows
from latentface.training.loop import train

PHOTO_RATE = 50
SHOWN_RATE = 75
MOST_FACES = 10  # in one picture; the fewest are none


@dataclass
class DemoConfig:
    """Draws pictures, encodes them, trains a small detector on their latents and finds faces with it."""

    out: str = option("demo", "folder for everything that is made; continues where it was stopped")
    pictures: int = option(1200, "pictures to train on")
    held_out: int = option(150, "pictures to evaluate on")
    size: int = option(352, "side of a picture, pixels")
    epochs: int = option(12, "epochs of training")
    shown: int = option(3, "held-out pictures to draw faces on")
    seed: int = option(0, "seed of pictures and training")

    def __post_init__(self) -> None:
        for name in ("pictures", "held_out", "epochs", "shown"):
            if getattr(self, name) < 1:
                raise LatentFaceError(f"--{name} {getattr(self, name)}: has to be 1 or more")
        if self.size % 16 or not 32 <= self.size <= 4096:
            raise LatentFaceError(f"--size {self.size}: has to be a multiple of 16 from 32 to 4096")
        if self.seed < 0:
            raise LatentFaceError(f"--seed {self.seed}: cannot be negative")


def run(config: DemoConfig) -> int:
    """Every step is what a command of its own does; pictures, latents and epochs that are there are kept."""
    out = make_folder(config.out, "--out")
    _refuse_another_demo(out / "settings.json", config)
    seconds: dict[str, float] = {}
    splits = (("train", config.pictures), ("val", config.held_out))
    with _step("drawing", f"1. drawing {config.pictures} + {config.held_out} pictures", seconds):
        for split, count in splits:
            draw_split(out / "photos" / split, split, count, config)
    with _step("encoding", f"2. encoding them at rates {', '.join(map(str, RATES))} with the dct codec", seconds):
        for split, _ in splits:
            if encode.run(_encoding(out, split, config)):
                raise KeyboardInterrupt
    with _step("training", f"3. training for {config.epochs} epochs", seconds):
        weight = _train(out, config)
    with _step("evaluating", "4. evaluating on the held-out pictures", seconds):
        evaluate.run(
            evaluate.EvaluateConfig(weight=str(weight), dataset_root=str(out / "dataset"), out=str(out / "evaluation"))
        )
    with _step("detecting", "5. detecting", seconds):
        shown = show(out, weight, config)
    with _step("pretrained", "6. detecting with the weights that come along, as in a photograph of yours", seconds):
        shown.append(show_pretrained(out, config))
    _farewell(shown, summarise(out, config, seconds), out)
    return 0


def _refuse_another_demo(path: Path, config: DemoConfig) -> None:
    """Pictures and weights of other settings must not be mixed with these; only epochs may be added."""
    wanted = {name: getattr(config, name) for name in ("seed", "size", "pictures", "held_out")}
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != wanted:
        raise LatentFaceError(f"{config.out} holds a demo of other {', '.join(wanted)}: give another --out")
    done = len(read_rows(path.parent / "run" / "metrics.jsonl"))
    if done > config.epochs:
        raise LatentFaceError(f"{config.out} holds a demo of {done} epochs already: give another --out")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(wanted), encoding="utf-8")


def draw_split(folder: Path, split: str, count: int, config: DemoConfig) -> None:
    """`count` PNG files and labels.txt; picture n of a split is the same in every run."""
    label_file = make_folder(folder, "--out") / "labels.txt"
    if label_file.is_file() and len(read_labels(label_file)) == count:  # written last: all is there
        return
    draw = partial(_draw_one, folder=folder, split=split, size=config.size, seed=config.seed)
    pool = ProcessPoolExecutor(cores(), mp_context=get_context("spawn"))
    try:
        with no_interrupt():
            drawn = pool.map(draw, range(count), chunksize=16)
        labels = list(progress(drawn, f"drawing {split}", count, "picture"))
    finally:
        pool.shutdown(cancel_futures=True)
    write_labels(label_file, labels)


def _draw_one(number: int, *, folder: Path, split: str, size: int, seed: int) -> PictureLabels:
    cv2.setNumThreads(1)  # one process per core is at work
    generator = np.random.default_rng((seed, split == "val", number))
    picture = draw_picture(generator, size, size, faces=int(generator.integers(MOST_FACES + 1)))
    name = f"drawn_{split}_{number:04d}.png"
    if not (folder / name).is_file():
        save_picture(folder / name, picture.rgb)
    return PictureLabels(name, picture.boxes, picture.landmarks, np.zeros(len(picture.boxes), dtype=bool))


def _encoding(out: Path, split: str, config: DemoConfig) -> encode.EncodeConfig:
    photos = out / "photos" / split
    return encode.EncodeConfig(
        images=str(photos),
        labels=str(photos / "labels.txt"),
        out=str(out / "dataset" / split),
        size=config.size,
        dtype="float16",  # half the disk; dct coefficients of 8-bit pictures lose nothing that matters
    )


def _train(out: Path, config: DemoConfig) -> Path:
    """A light model for all five rates at once; continues an interrupted run."""
    folder = out / "run"
    settings = TrainConfig(
        dataset_root=str(out / "dataset"),
        out=str(folder),
        resume=str(folder) if (folder / "state.pth").is_file() else "",
        model="light",
        bridge="shuffle",
        rates=RATES,
        epochs=config.epochs,
        batch_size=4,
        optimizer="adamw",
        lr=2e-3,
        schedule="cosine",
        average=0.0,
        prior_sizes=(10, 20, 40, 80, 160, 320),  # for faces of 12 to 300 pixels
        val_every=config.epochs,
        no_wandb=True,
        seed=config.seed,
    )
    train(settings)
    if len(read_rows(folder / "metrics.jsonl")) < config.epochs:  # Ctrl-C: the state is saved
        raise KeyboardInterrupt
    return folder / "weight_final.pth"


def show(out: Path, weight: Path, config: DemoConfig) -> list[Path]:
    """Faces found in the latents of the first held-out pictures with several faces, and one picture of how it goes."""
    latents = out / "dataset" / "val" / "latent"
    crowded = [latents / name / f"latent_{SHOWN_RATE}.npy" for name in _crowded(out)[: config.shown]]
    folder = out / "detections"
    detect.run(detect.DetectConfig(inputs=tuple(map(str, crowded)), weight=str(weight), out=str(folder)))
    pictures = [folder / f"{path.parent.name}_latent_{SHOWN_RATE}.png" for path in crowded]
    panels = [
        np.array(Image.open(out / "photos" / "val" / f"{crowded[0].parent.name}.png").convert("RGB")),
        render_latent(np.load(crowded[0], allow_pickle=False), stride=16),
        np.array(Image.open(pictures[0]).convert("RGB")),
    ]
    save_picture(out / "how_it_looks.png", side_by_side(panels, ("picture", "its latent", "faces found in the latent")))
    return [out / "how_it_looks.png", *pictures]


def _crowded(out: Path) -> list[str]:
    """Names of the held-out pictures, those with most faces first."""
    labels = read_labels(out / "photos" / "val" / "labels.txt")
    return sorted(sorted(labels), key=lambda name: -len(labels[name].boxes))


def show_pretrained(out: Path, config: DemoConfig) -> Path:
    """Faces found in a picture that is encoded on the way, by the detector that learned from real photographs."""
    photo = out / "photos" / "val" / f"{_crowded(out)[0]}.png"
    folder = out / "detections" / "pretrained"
    detect.run(
        detect.DetectConfig(inputs=(str(photo),), codec="dct", rate=PHOTO_RATE, size=config.size, out=str(folder))
    )
    return folder / f"{photo.stem}.png"


def side_by_side(panels: list[np.ndarray], titles: tuple[str, ...], height: int = 480) -> np.ndarray:
    """Pictures of one height in a row, each under its title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(height / 100 * len(panels), height / 100 + 0.3), dpi=100, layout="constrained")
    for axes, panel, title in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, titles, strict=True):
        axes.imshow(panel, interpolation="antialiased")
        axes.set_title(title)
        axes.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@contextmanager
def _step(name: str, title: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.monotonic()
    print(f"\n{title}", flush=True)
    yield
    seconds[name] = round(time.monotonic() - start, 1)
    print(f"   {seconds[name]:.0f} s", flush=True)


def summarise(out: Path, config: DemoConfig, seconds: dict[str, float]) -> dict[str, Any]:
    """What came out and what it cost, also written to `out`/summary.json."""
    result = json.loads((out / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    before = out / "summary.json"
    earlier = json.loads(before.read_text(encoding="utf-8"))["seconds"] if before.is_file() else {}
    seconds = {name: max(spent, earlier.get(name, 0.0)) for name, spent in seconds.items()}  # not those of a rerun
    summary = {
        "protocol": result["protocol"]
        | {"set": "drawn pictures", "weight": "light, shuffle bridge, one for all rates"},
        "settings": {name: value for name, value in asdict(config).items() if name != "out"},
        "rates": {
            rate: {"ap": score["all"]["ap"], "faces": score["all"]["truths"], "mean_bpp": score["mean_bpp"]}
            for rate, score in result["rates"].items()
        },
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
        "cores": cores(),
        "versions": result["versions"],
    }
    with replacing(out / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _farewell(shown: list[Path], summary: dict[str, Any], out: Path) -> None:
    scores = ", ".join(f"{score['ap']:.3f} at rate {rate}" for rate, score in summary["rates"].items())
    lines = [
        f"\nDone in {summary['seconds']['total'] / 60:.1f} minutes. "
        f"AP (IoU 0.5) on {summary['settings']['held_out']} held-out drawn pictures: {scores}.",
        "Look at:",
        *(f"  {path}" for path in (*shown, out / "run" / "curves.png")),
        "Next:",
        f"  latentface detect YOUR_PHOTO.jpg --codec dct --rate {PHOTO_RATE}                faces in your photograph",
        "  latentface encode --images YOUR_PHOTOS --labels LABELS --out ROOT/train    your own pictures",
        "  latentface train --dataset_root ROOT                                       your own detector",
    ]
    print("\n".join(lines))
