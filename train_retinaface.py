"""Trains RetinaFace on the documented dataset of latents.

    python train_retinaface.py --dataset_root ./retina-modify --no_wandb

All flags: --help. The same as `latentface train --recipe retinaface`.
"""

import sys

from latentface.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], defaults={"recipe": "retinaface"}))
