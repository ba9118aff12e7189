"""A checkpoint on a split of a dataset, for `latentface evaluate`: predict, write prediction files, score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentface.data.batches import collate_by_shape
from latentface.data.cache import Cache
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import ManifestRow
from latentface.data.mirror import local, local_file, shown
from latentface.data.pretrained import codec_near, pretrained
from latentface.data.reading import deaths_explained, load_batches
from latentface.data.remote import join
from latentface.data.sizes import label_frame
from latentface.data.stores import available_rates, find_labels, latent_folder
from latentface.errors import LatentFaceError
from latentface.evaluation.average_precision import DetectionScore, Evaluation, PictureResult
from latentface.evaluation.wider import prediction_name, write_prediction
from latentface.files import make_folder, refuse_link_outside, sha256
from latentface.inference.cost import Stopwatch, cost
from latentface.inference.detector import Detector
from latentface.inference.evaluate_files import number, wider_scores
from latentface.machine import versions
from latentface.progress import progress

if TYPE_CHECKING:
    from latentface.inference.evaluate import EvaluateConfig


def evaluate_weights(config: EvaluateConfig) -> dict[str, Any]:
    """Every rate of a split: overall, by face height, landmarks; prediction files in `out`/predictions_<rate>."""
    cache = Cache.of(config.cache_dir, config.cache_gb)
    split = local(join(config.dataset_root, config.split), cache) if not config.latent_dir else None
    latent_dir = latent_folder(split) if split else local(config.latent_dir, cache)
    if not latent_dir.is_dir():
        raise LatentFaceError(f"{shown(latent_dir)}: no such folder; give --dataset_root and --split, or --latent_dir")
    weight = config.weight or str(pretrained(codec_near([latent_dir], "--weight")))
    detector = Detector.load(weight, network=config.network or None, device=config.device, precision=config.precision)
    if config.channels:
        detector.read_channels(config.channels)
    there = set(available_rates(latent_dir))
    rates = config.rates or tuple(rate for rate in detector.rates or sorted(there) if rate in there) or detector.rates
    if not rates:
        raise LatentFaceError(f"{latent_dir}: no latents in it; expected <picture>/latent_<rate>.npy")
    for rate in rates:
        detector.check_rate(rate)
    data = {
        "latent_dir": shown(latent_dir),
        "label_file": config.label_file or shown(find_labels(latent_dir)),
        **{name: getattr(config, name) for name in ("label_frame", "image_sizes", "image_dir", "label_fit", "stride")},
    }
    datasets = [open_set(data, rate, cache) for rate in rates]
    for dataset in datasets:
        detector.check_codec(dataset.codec, str(latent_dir))
    watch = Stopwatch()
    with deaths_explained():
        scores = {str(dataset.rates[0]): _evaluate_rate(config, detector, dataset, watch) for dataset in datasets}
    return {
        "protocol": _protocol(config, datasets, weight),
        "weight_sha256": sha256(Path(weight)),
        "data": data,
        "rates": scores,
        "cost": cost(detector.runtime, watch),
        "versions": versions(),
    }


def _protocol(config: EvaluateConfig, datasets: Sequence[NestedLatentWiderFaceDataset], weight: str) -> dict[str, Any]:
    """What the figures mean: the set, and everything of the settings that they depend on."""
    protocol = {
        "name": "all-point AP at IoU 0.5, detections pooled",
        "set": shown(datasets[0].store.split),
        "pictures": max(len(dataset) for dataset in datasets),
        "notes": list(dict.fromkeys(note for dataset in datasets for note in dataset.notes)),
        "codec": datasets[0].codec,
        "weight": weight,
        "min_height": config.min_height,
        "confidence": config.conf,
        "nms": config.nms,
        "before_nms": config.before_nms,
        "keep": config.keep,
    }
    if config.precision != "float32":
        protocol["precision"] = config.precision
    if config.channels:
        protocol["channels"] = config.channels
    if config.frame != "picture":
        protocol["frame"] = config.frame
    return protocol


def open_set(data: Mapping[str, Any], rate: int, cache: Cache | None = None) -> NestedLatentWiderFaceDataset:
    """What was evaluated, by the settings that evaluation.json keeps as `data`."""
    return NestedLatentWiderFaceDataset(
        local(data["latent_dir"], cache),
        local_file(data["label_file"], cache),
        (rate,),
        frame=label_frame(data["label_frame"], data["image_sizes"], data["image_dir"], data["label_fit"]),
        stride=data["stride"],
    )


def _evaluate_rate(
    config: EvaluateConfig, detector: Detector, dataset: NestedLatentWiderFaceDataset, watch: Stopwatch
) -> dict[str, Any]:
    rate = dataset.rates[0]
    folder = make_folder(Path(config.out) / f"predictions_{rate}", "--out", within=config.out)
    for event in folder.iterdir():
        refuse_link_outside(event, folder)
    for stale in (*folder.glob("*.txt"), *folder.glob("*/*.txt")):  # of an earlier evaluation: they would count
        stale.unlink()
    evaluation, sizes = Evaluation(min_height=config.min_height), set()
    rows = {picture.name: (picture.labels.name, picture.row) for picture in dataset.pictures}
    for name, size, result in _results(config, detector, dataset.by_shard(), watch):
        evaluation.add(result)
        sizes.add(size)
        label, row = rows[name]
        write_prediction(folder, prediction_name(label), _framed(result.boxes, row, config.frame, label), result.scores)
    entries = [row.latents[rate] for _, row in rows.values() if row and rate in row.latents]
    bpp = [entry.bpp for entry in entries if entry.bpp is not None]
    exact = {entry.exact for entry in entries}
    landmarks = evaluation.landmarks()
    scored: dict[str, Any] = {
        "all": _plain(evaluation.overall.score()),
        **{band: _plain(tally.score()) for band, tally in evaluation.bands.items()},
        "landmarks": {"nme": number(landmarks.nme), "faces": landmarks.faces},
        "mean_bpp": float(np.mean(bpp)) if len(bpp) == len(rows) else None,
        "latents": {frozenset({True}): "exact", frozenset({False}): "approximate"}.get(frozenset(exact), "unknown"),
        "picture_sizes": sorted(f"{width}x{height}" for width, height in sizes),
        "predictions": str(folder),
    }
    if config.ground_truth:
        scored["wider"] = wider_scores(folder, config)
    return scored


def _results(
    config: EvaluateConfig, detector: Detector, dataset: NestedLatentWiderFaceDataset, watch: Stopwatch
) -> Iterator[tuple[str, tuple[int, int], PictureResult]]:
    """Name, picture size (width, height), and what was found and is there, picture by picture."""
    loader = load_batches(dataset, collate_by_shape, config.workers, batch_size=config.batch_size)
    for groups in progress(loader, f"rate {dataset.rates[0]}", len(loader), unit="batch"):
        for batch in groups:
            latents = batch.decoded()
            if not latents.isfinite().all():  # a packed set says that it was checked; who wrote it?
                raise LatentFaceError(f"NaN or infinite values in a latent of {', '.join(batch.names)}; pack it again")
            with watch.batch(tuple(latents.shape)):
                found = detector.predict(latents, batch.rates, batch.model_indices, config.thresholds)
            height, width = (side * detector.stride for side in batch.latents.shape[-2:])
            for row, (name, faces) in enumerate(zip(batch.names, found, strict=True)):
                truth = batch.truth(row)
                result = PictureResult(faces.boxes, faces.scores, faces.landmarks, *truth)
                yield name, (width, height), result


def _framed(boxes: np.ndarray, row: ManifestRow | None, frame: str, name: str) -> np.ndarray:
    """Boxes in picture pixels, or brought back to the photograph's."""
    if frame == "picture":
        return boxes
    if row is None or row.crop or row.mirrored:
        raise LatentFaceError(f"--frame source: the manifest does not say where {name} lies in a whole photograph")
    return row.to_photograph(boxes)


def _plain(score: DetectionScore) -> dict[str, Any]:
    return {name: number(getattr(score, name)) for name in ("ap", "recall", "truths", "detections", "pictures")}
