"""Finds faces in a latent.

    python detection.py --latent latent_75.npy --weight weight_final.pth --network resnet50 --conf 0.6

All flags: --help. The same as `latentface detect`.
"""

import sys

from latentface.cli import main

if __name__ == "__main__":
    sys.exit(main(["detect", *sys.argv[1:]]))
