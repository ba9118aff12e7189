"""AP after training with pictures drawn from the whole set, and by windows of shards: `python measure_order.py --help`.

With --sorted the pictures are sorted by number of faces, so that a shard holds pictures of one kind only: harder for an
order by shards than a set sorted by event. Writes OUT/order.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latentface.apps.drawing import draw_picture
from latentface.data import encode, pack
from latentface.data.labels import PictureLabels, write_labels
from latentface.inference import evaluate
from latentface.training.config import TrainConfig
from latentface.training.loop import train

RATE, SHARDS, WINDOW, BATCH, HELD_OUT = 75, 20, 4, 4, 120


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sorted", action="store_true", help="pictures by number of faces, else as they come")
    for name, default in (("pictures", 600), ("size", 160), ("faces", 6), ("epochs", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    return parser.parse_args()


def draw(folder: Path, split: str, count: int, settings: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels, size = [], settings.size
    for number in range(count):
        faces = number * (settings.faces + 1) // count if settings.sorted else number % (settings.faces + 1)
        picture = draw_picture(np.random.default_rng((split == "val", number)), size, size, faces=faces)
        name = f"{split}_{number:04d}.png"
        Image.fromarray(picture.rgb).save(folder / name)
        labels.append(PictureLabels(name, picture.boxes, picture.landmarks, np.zeros(len(picture.boxes), dtype=bool)))
    write_labels(folder / "labels.txt", labels)


def make_set(settings: argparse.Namespace) -> None:
    out = settings.out
    for split, count in (("train", settings.pictures), ("val", HELD_OUT)):
        photos = out / "photos" / split
        draw(photos, split, count, settings)
        encode.run(
            encode.EncodeConfig(
                images=str(photos), labels=str(photos / "labels.txt"), out=str(out / "tree" / split),
                size=settings.size, rates=(RATE,), dtype="float16", workers=1,
            )
        )  # fmt: skip
    pack.SHARD_BYTES = settings.pictures // SHARDS * 256 * (settings.size // 16) ** 2 * 2
    pack.run(pack.PackConfig(str(out / "tree"), out=str(out / "packed")))


def measure(out: Path, order: str, seed: int, epochs: int) -> dict[str, float]:
    folder = out / f"{order}_{seed}"
    train(
        TrainConfig(
            dataset_root=str(out / "packed"), out=str(folder), model="light", bridge="shuffle", rates=(RATE,),
            epochs=epochs, batch_size=BATCH, lr=2e-3, average=0.0, prior_sizes=(10, 20, 40, 80, 160, 320),
            val_every=epochs, no_wandb=True, seed=seed, workers=0, order=order, window=WINDOW, no_check=True,
        )
    )  # fmt: skip
    evaluate.run(
        evaluate.EvaluateConfig(
            weight=str(folder / "weight_final.pth"), dataset_root=str(out / "packed"), out=str(folder / "evaluation")
        )
    )
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())["rates"][str(RATE)]["all"]


def main(settings: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    out = settings.out
    if not (out / "packed" / "val" / "pack.json").is_file():
        make_set(settings)
    runs = []
    for seed in settings.seeds:
        for order in ("pictures", "shards"):
            score = measure(out, order, seed, settings.epochs)
            runs.append({"order": order, "seed": seed, "ap": round(score["ap"], 4), "faces": score["truths"]})
            print(runs[-1], flush=True)
            (out / "order.json").write_text(json.dumps({"window": WINDOW, "shards": SHARDS, "runs": runs}, indent=1))


if __name__ == "__main__":
    main(arguments())
