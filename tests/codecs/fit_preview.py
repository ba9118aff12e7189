"""Fits the preview of JPEG AI latents and says how near it comes: `python fit_preview.py --help`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latentface.codecs.base import Latent
from latentface.codecs.jpegai import MODEL_OF_RATE
from latentface.codecs.preview import FILE, Example, Preview, fit
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.progress import progress


def examples(split: str, photographs: str, rate: int, pictures: int = 0) -> Iterator[Example]:
    dataset = NestedLatentWiderFaceDataset.of_split(split, rates=(rate,), photographs=Path(photographs))
    for index in progress(range(min(pictures or len(dataset), len(dataset))), f"rate {rate}", unit="picture"):
        sample = dataset[index]
        assert sample.picture is not None
        yield MODEL_OF_RATE[rate], sample.values, sample.picture


def decibels(preview: Preview, split: str, photographs: str, rate: int, pictures: int) -> float:
    """Mean PSNR of the previews of a split, over all pixels of the coded pictures, padding included."""
    found = []
    for model, latent, picture in examples(split, photographs, rate, pictures):
        height, width = picture.shape[:2]
        seen = preview.decode(Latent(latent, "jpegai", rate, model, None, 0.0, width, height, exact=False))
        found.append(10 * np.log10(255**2 / np.mean((seen.astype(np.float32) - picture) ** 2)))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", nargs=2, metavar=("SPLIT", "PHOTOGRAPHS"), help="JPEG AI latents to fit on")
    parser.add_argument("--out", type=Path, default=FILE, help="file for the maps; without --train the one to measure")
    parser.add_argument("--held_out", nargs=2, metavar=("SPLIT", "PHOTOGRAPHS"), help="to measure on")
    parser.add_argument("--rates", type=int, nargs="+", default=list(MODEL_OF_RATE), help="of the held-out split")
    parser.add_argument("--pictures", type=int, default=0, help="only the first of the held-out ones")
    settings = parser.parse_args()
    if settings.train:
        fit((pair for rate in MODEL_OF_RATE for pair in examples(*settings.train, rate)), MODEL_OF_RATE).save(
            settings.out
        )
    if settings.held_out:
        preview = Preview.load(settings.out)
        found = {rate: decibels(preview, *settings.held_out, rate, settings.pictures) for rate in settings.rates}
        print(json.dumps({rate: round(value, 2) for rate, value in found.items()}))


if __name__ == "__main__":
    main()
