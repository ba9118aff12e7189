"""AP after training with pictures drawn from the whole set, and by windows of shards: `python measure_order.py OUT`.

The set is sorted by number of faces, so that a shard holds pictures of one kind only: as hard for an order by shards
as a set sorted by event. Writes OUT/order.json.
"""

from __future__ import annotations

import json
import sys
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

SIZE, RATE, MOST_FACES = 64, 75, 2
PICTURES = {"train": 320, "val": 120}
SHARDS, WINDOW, SEEDS, EPOCHS, BATCH = 20, 4, (0, 1), 20, 4


def draw(folder: Path, split: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = []
    for number in range(PICTURES[split]):
        faces = number * (MOST_FACES + 1) // PICTURES[split]  # sorted: 0, 0, ... 2, 2
        picture = draw_picture(np.random.default_rng((split == "val", number)), SIZE, SIZE, faces=faces)
        name = f"{split}_{number:04d}.png"
        Image.fromarray(picture.rgb).save(folder / name)
        labels.append(PictureLabels(name, picture.boxes, picture.landmarks, np.zeros(len(picture.boxes), dtype=bool)))
    write_labels(folder / "labels.txt", labels)


def make_set(out: Path) -> None:
    for split in PICTURES:
        photos = out / "photos" / split
        draw(photos, split)
        encode.run(
            encode.EncodeConfig(
                images=str(photos), labels=str(photos / "labels.txt"), out=str(out / "tree" / split), size=SIZE,
                rates=(RATE,), dtype="float16", workers=1,
            )
        )  # fmt: skip
    pack.SHARD_BYTES = PICTURES["train"] // SHARDS * 256 * (SIZE // 16) ** 2 * 2
    pack.run(pack.PackConfig(str(out / "tree"), out=str(out / "packed")))


def measure(out: Path, order: str, seed: int) -> dict[str, float]:
    folder = out / f"{order}_{seed}"
    train(
        TrainConfig(
            dataset_root=str(out / "packed"), out=str(folder), model="light", bridge="shuffle", rates=(RATE,),
            epochs=EPOCHS, batch_size=BATCH, lr=2e-3, average=0.0, prior_sizes=(10, 20, 40, 80, 160, 320),
            val_every=EPOCHS, no_wandb=True, seed=seed, workers=0, order=order, window=WINDOW, no_check=True,
        )
    )  # fmt: skip
    evaluate.run(
        evaluate.EvaluateConfig(
            weight=str(folder / "weight_final.pth"), dataset_root=str(out / "packed"), out=str(folder / "evaluation")
        )
    )
    return json.loads((folder / "evaluation" / "evaluation.json").read_text())["rates"][str(RATE)]["all"]


def main(out: Path) -> None:
    torch.set_num_threads(1)
    if not (out / "packed" / "val" / "pack.json").is_file():
        make_set(out)
    runs = []
    for seed in SEEDS:
        for order in ("pictures", "shards"):
            score = measure(out, order, seed)
            runs.append({"order": order, "seed": seed, "ap": round(score["ap"], 4), "faces": score["truths"]})
            print(runs[-1], flush=True)
    result = {
        "set": f"{PICTURES['train']} drawn pictures of {SIZE}x{SIZE}, dct at rate {RATE}, sorted by number of faces; "
        f"{SHARDS} shards; {PICTURES['val']} held out",
        "model": f"light, shuffle bridge, {EPOCHS} epochs, batches of {BATCH}, the same steps for all",
        "window": WINDOW,
        "runs": runs,
    }
    (out / "order.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
