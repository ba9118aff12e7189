"""`latentface evaluate`: predict, then score, with prediction files between.

With `--weight`: AP of a checkpoint on a split of a dataset, and a folder of prediction files per rate. With
`--predictions` and `--ground_truth`: the WIDER FACE protocol on a folder of prediction files of any detector.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from latentface.data.batches import collate_by_shape
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import ManifestRow
from latentface.data.sizes import label_frame
from latentface.data.stores import available_rates, find_labels, latent_folder
from latentface.errors import LatentFaceError
from latentface.evaluation.average_precision import (
    DetectionScore,
    PictureResult,
    by_height,
    evaluate_pictures,
    landmark_error,
)
from latentface.evaluation.wider import DIFFICULTIES, evaluate_wider, write_prediction
from latentface.files import make_folder, replacing
from latentface.inference.detector import Detector
from latentface.model.checkpoint import versions
from latentface.model.faces import Thresholds
from latentface.options import option
from latentface.progress import progress


@dataclass
class EvaluateConfig:
    """AP of a checkpoint on a dataset (--weight), or of WIDER FACE prediction files (--predictions, --ground_truth)."""

    weight: str = option("", "checkpoint to evaluate")
    network: str = option("", "backbone that the checkpoint has to hold; empty: whatever it holds")
    dataset_root: str = option(".", "folder that holds the split")
    split: str = option("val", "folder below --dataset_root with latent/ and labels.txt")
    latent_dir: str = option("", "latents, in place of <dataset_root>/<split>/latent")
    label_file: str = option("", "labels, in place of <dataset_root>/<split>/labels.txt")
    stride: int = option(16, "picture pixels per cell, where no manifest says it")
    label_frame: str = option("picture", "coordinates of the labels", choices=("picture", "source"))
    image_sizes: str = option("", "JSON of picture name -> [width, height] of photographs, for --label_frame source")
    image_dir: str = option("", "the photographs themselves, to read their sizes from; implies --label_frame source")
    label_fit: str = option("stretch", "how photographs were brought to the coded size", choices=("stretch", "pad"))
    rates: tuple[int, ...] = option((), "rates to evaluate; empty: all that the model knows and the split has")
    min_height: float = option(0.0, "leave faces lower than so many picture pixels out, as neither right nor wrong")
    predictions: str = option("", "folder of WIDER FACE prediction files, <event>/<name>.txt")
    ground_truth: str = option("", "folder of the official wider_*_val.mat files: scores by the WIDER FACE protocol")
    allow_missing: bool = option(False, "count the faces of pictures without a prediction file as not found")
    frame: str = option("picture", "pixels of the prediction files written", choices=("picture", "source"))
    conf: float = option(0.02, "lowest confidence")
    nms: float = option(0.4, "IoU from which the weaker of two boxes goes")
    before_nms: int = option(5000, "boxes kept before suppression")
    keep: int = option(750, "boxes kept after suppression")
    out: str = option("evaluation", "folder for evaluation.json and the prediction files")
    batch_size: int = option(8, "latents of one shape per batch")
    device: str = option("", "e.g. cuda:0 or cpu; empty: a GPU where there is one")
    workers: int = option(0, "processes that read latents")
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        if bool(self.weight) == bool(self.predictions):
            raise LatentFaceError("give either --weight (with --dataset_root) or --predictions (with --ground_truth)")
        if self.predictions and not self.ground_truth:
            raise LatentFaceError("--predictions needs --ground_truth DIR, the folder of the official .mat files")
        if self.weight and self.ground_truth and self.frame != "source":
            raise LatentFaceError("--ground_truth is in pixels of the photographs: add --frame source")
        if self.batch_size < 1 or self.workers < 0 or self.stride < 1:
            raise LatentFaceError("--batch_size and --stride have to be 1 or more, --workers 0 or more")

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(self.conf, self.nms, self.before_nms, self.keep)


def run(config: EvaluateConfig) -> int:
    """Evaluates, prints, and writes evaluation.json."""
    result = evaluate_files(config) if config.predictions else evaluate_weights(config)
    out = make_folder(config.out, "--out")
    text = json.dumps(result, indent=1)
    with replacing(out / "evaluation.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text if config.json else describe(result))
    return 0


def evaluate_files(config: EvaluateConfig) -> dict[str, Any]:
    """The WIDER FACE protocol on prediction files."""
    protocol = {
        "name": "WIDER FACE",
        "iou": 0.5,
        "predictions": config.predictions,
        "ground_truth": config.ground_truth,
        "scores": "min-max normalised over the set",
        "thresholds": 1000,
    }
    return {"protocol": protocol, "wider": _wider(Path(config.predictions), config), "versions": versions()}


def evaluate_weights(config: EvaluateConfig) -> dict[str, Any]:
    """Every rate of a split: overall, by face height, landmarks; prediction files in `out`/predictions_<rate>."""
    detector = Detector.load(config.weight, network=config.network or None, device=config.device)
    latent_dir = Path(config.latent_dir or latent_folder(Path(config.dataset_root) / config.split))
    if not latent_dir.is_dir():
        raise LatentFaceError(f"{latent_dir}: no such folder; give --dataset_root and --split, or --latent_dir")
    there = set(available_rates(latent_dir))
    rates = config.rates or tuple(rate for rate in detector.rates if rate in there) or detector.rates
    for rate in rates:
        detector.check_rate(rate)
    datasets = [_open(config, latent_dir, rate) for rate in rates]
    for dataset in datasets:
        detector.check_codec(dataset.codec, str(latent_dir))
    protocol = {
        "name": "all-point AP at IoU 0.5, detections pooled",
        "set": str(datasets[0].store.split),
        "pictures": max(len(dataset) for dataset in datasets),
        "notes": list(dict.fromkeys(note for dataset in datasets for note in dataset.notes)),
        "codec": datasets[0].codec,
        "weight": config.weight,
        "min_height": config.min_height,
        "confidence": config.conf,
        "nms": config.nms,
        "before_nms": config.before_nms,
        "keep": config.keep,
    }
    scores = {str(dataset.rates[0]): _evaluate_rate(config, detector, dataset) for dataset in datasets}
    return {"protocol": protocol, "rates": scores, "versions": versions()}


def _open(config: EvaluateConfig, latent_dir: Path, rate: int) -> NestedLatentWiderFaceDataset:
    return NestedLatentWiderFaceDataset(
        latent_dir,
        Path(config.label_file) if config.label_file else find_labels(latent_dir),
        (rate,),
        frame=label_frame(config.label_frame, config.image_sizes, config.image_dir, config.label_fit),
        stride=config.stride,
    )


def _evaluate_rate(config: EvaluateConfig, detector: Detector, dataset: NestedLatentWiderFaceDataset) -> dict[str, Any]:
    rate = dataset.rates[0]
    folder = Path(config.out) / f"predictions_{rate}"
    for stale in (*folder.glob("*.txt"), *folder.glob("*/*.txt")):  # of an earlier evaluation: they would count
        stale.unlink()
    results, sizes = [], set()
    rows = {picture.name: (picture.labels.name, picture.row) for picture in dataset.pictures}
    for name, size, result in _results(config, detector, dataset):
        results.append(result)
        sizes.add(size)
        label, row = rows[name]
        write_prediction(folder, _event_and_name(label), _framed(result.boxes, row, config.frame, label), result.scores)
    bpp = [row.latents[rate].bpp for _, row in rows.values() if row and rate in row.latents]
    exact = {row.latents[rate].exact for _, row in rows.values() if row and rate in row.latents}
    landmarks = landmark_error(results)
    scored: dict[str, Any] = {
        "all": _plain(evaluate_pictures(results, min_height=config.min_height)),
        **{band: _plain(score) for band, score in by_height(results).items()},
        "landmarks": {"nme": _number(landmarks.nme), "faces": landmarks.faces},
        "mean_bpp": float(np.mean(bpp)) if bpp else None,
        "latents": {frozenset({True}): "exact", frozenset({False}): "approximate"}.get(frozenset(exact), "unknown"),
        "picture_sizes": sorted(f"{width}x{height}" for width, height in sizes),
        "predictions": str(folder),
    }
    if config.ground_truth:
        scored["wider"] = _wider(folder, config)
    return scored


def _results(
    config: EvaluateConfig, detector: Detector, dataset: NestedLatentWiderFaceDataset
) -> Iterator[tuple[str, tuple[int, int], PictureResult]]:
    """Name, picture size (width, height), and what was found and is there, picture by picture."""
    loader = DataLoader(dataset, batch_size=config.batch_size, collate_fn=collate_by_shape, num_workers=config.workers)
    for groups in progress(loader, f"rate {dataset.rates[0]}", len(loader), unit="batch"):
        for batch in groups:
            found = detector.predict(batch.decoded(), batch.rates, batch.model_indices, config.thresholds)
            height, width = (side * detector.stride for side in batch.latents.shape[-2:])
            for row, (name, faces) in enumerate(zip(batch.names, found, strict=True)):
                truth = batch.truth(row)
                result = PictureResult(faces.boxes, faces.scores, faces.landmarks, *truth)
                yield name, (width, height), result


def _event_and_name(label: str) -> str:
    """The last two parts of a picture's name: what prediction files are called."""
    return "/".join(re.split(r"[/\\]", label)[-2:])


def _framed(boxes: np.ndarray, row: ManifestRow | None, frame: str, name: str) -> np.ndarray:
    """Boxes in picture pixels, or brought back to the photograph's."""
    if frame == "picture":
        return boxes
    if row is None or row.crop or row.mirrored:
        raise LatentFaceError(f"--frame source: the manifest does not say where {name} lies in a whole photograph")
    return boxes / np.array([row.scale_x, row.scale_y, row.scale_x, row.scale_y], dtype=np.float32)


def _wider(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    score = evaluate_wider(folder, Path(config.ground_truth), allow_missing=config.allow_missing)
    names = (*DIFFICULTIES, "pictures", "missing", "empty", "unknown")
    return {name: _number(getattr(score, name)) for name in names}


def _plain(score: DetectionScore) -> dict[str, Any]:
    return {name: _number(getattr(score, name)) for name in ("ap", "recall", "truths", "detections", "pictures")}


def _number(value: float) -> float | None:
    """JSON has no NaN: None where there was nothing to measure."""
    return None if isinstance(value, float) and math.isnan(value) else value


def describe(result: dict[str, Any]) -> str:
    """The result as a table, always with its protocol."""
    lines = ["protocol: " + ", ".join(f"{k} {v}" for k, v in result["protocol"].items() if v != [])]
    if "wider" in result:
        lines.append(_wider_line(result["wider"]))
    for rate, scored in result.get("rates", {}).items():
        bpp = "unknown" if scored["mean_bpp"] is None else f"{scored['mean_bpp']:.3f}"
        lines.append(f"rate {rate} ({bpp} bpp, {scored['latents']} latents, {', '.join(scored['picture_sizes'])})")
        for band in ("all", "under 16", "16-32", "32-96", "over 96"):
            score = scored[band]
            lines.append(
                f"  {band:>9}  AP {_shown(score['ap'])}  recall {_shown(score['recall'])}  {score['truths']} faces"
            )
        nme = scored["landmarks"]
        lines.append(f"  landmarks  NME {_shown(nme['nme'])} of sqrt(width x height), {nme['faces']} faces")
        if "wider" in scored:
            lines.append("  " + _wider_line(scored["wider"]))
    return "\n".join(lines)


def _wider_line(score: dict[str, Any]) -> str:
    counts = ", ".join(f"{score[name]} {name}" for name in ("pictures", "missing", "empty", "unknown"))
    return "WIDER FACE  " + "  ".join(f"{name} {_shown(score[name])}" for name in DIFFICULTIES) + f"  ({counts})"


def _shown(value: float | None) -> str:
    return "   -  " if value is None else f"{value:.4f}"
