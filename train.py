"""Trains RetinaFace on latents whose folders and labels are named one by one.

    python train.py --use_latent --latent_dir train/latent --val_latent_dir val/latent \\
        --train_label_file train/labels.txt --val_label_file val/labels.txt --latent_type latent_100.npy

All flags: --help. The same as `latentface train --recipe retinaface`.
"""

import sys

from latentface.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], defaults={"recipe": "retinaface"}))
