"""`latentface evaluate`: predict, then score, with prediction files between.

Of weights: their AP on a split of a dataset, and a folder of prediction files per rate. With
`--predictions` and `--ground_truth`: the WIDER FACE protocol on a folder of prediction files of any detector.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from latentface.data.cache import CACHE_GB
from latentface.errors import LatentFaceError
from latentface.evaluation.report import ran_on
from latentface.evaluation.wider import DIFFICULTIES
from latentface.files import make_folder, replacing
from latentface.inference.evaluate_files import evaluate_files
from latentface.model.config import PRECISIONS
from latentface.model.faces import Thresholds
from latentface.options import option, plain_values
from latentface.words import counted


@dataclass
class EvaluateConfig:
    """AP of a checkpoint on a dataset, or of WIDER FACE prediction files (--predictions, --ground_truth)."""

    weight: str = option("", "checkpoint to evaluate; empty: the detector that comes along for the codec")
    network: str = option("", "backbone that the checkpoint has to hold; empty: whatever it holds")
    dataset_root: str = option(".", "folder that holds the split, or its URL, s3://...")
    split: str = option("val", "folder below --dataset_root with latent/ and labels.txt")
    latent_dir: str = option("", "latents, in place of <dataset_root>/<split>/latent")
    label_file: str = option("", "labels, in place of <dataset_root>/<split>/labels.txt")
    stride: int = option(16, "picture pixels per cell, where no manifest says it")
    cache_dir: str = option("", "folder for what is fetched from URLs; empty: latentface in your cache folder")
    cache_gb: float = option(CACHE_GB, "most that this folder may hold, in GB; shared by all processes that use it")
    label_frame: str = option("picture", "coordinates of the labels", choices=("picture", "source"))
    image_sizes: str = option("", "JSON of picture name -> [width, height] of photographs, for --label_frame source")
    image_dir: str = option("", "the photographs themselves, to read their sizes from; implies --label_frame source")
    label_fit: str = option("stretch", "how photographs were brought to the coded size", choices=("stretch", "pad"))
    rates: tuple[int, ...] = option((), "rates to evaluate; empty: all that the model knows and the split has")
    channels: int = option(0, "read only so many channels of each latent, the strongest of its codec model; 0: all")
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
    precision: str = option(
        "float32",
        "of a checkpoint's network; bfloat16: faster on GPUs and on CPUs with units for it, slower on others",
        choices=PRECISIONS,
    )
    workers: int = option(0, "processes that read latents")
    json: bool = option(False, "print the result as JSON")

    def __post_init__(self) -> None:
        if self.weight and self.predictions:
            raise LatentFaceError("--weight and --predictions do not go together: leave one of them out")
        if self.predictions and not self.ground_truth:
            raise LatentFaceError("--predictions needs --ground_truth DIR, the folder of the official .mat files")
        if not self.predictions and self.ground_truth and self.frame != "source":
            raise LatentFaceError(
                "--ground_truth is in pixels of the photographs: add --frame source, or give --predictions"
            )
        if self.batch_size < 1 or self.stride < 1 or min(self.workers, self.channels) < 0:
            raise LatentFaceError("--batch_size and --stride have to be 1 or more, --workers and --channels 0 or more")

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(self.conf, self.nms, self.before_nms, self.keep)


def run(config: EvaluateConfig) -> int:
    """Evaluates, prints, and writes evaluation.json."""
    if config.predictions:
        result = evaluate_files(config)
    else:
        from latentface.inference.evaluate_weights import evaluate_weights

        result = evaluate_weights(config)
    result["settings"] = plain_values(asdict(config))
    out = make_folder(config.out, "--out")
    text = json.dumps(result, indent=1)
    with replacing(out / "evaluation.json") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text if config.json else f"{describe(result)}\n\n{out / 'evaluation.json'}")
    return 0


def describe(result: dict[str, Any]) -> str:
    """The result as a table, always with its protocol."""
    lines = ["protocol: " + ", ".join(f"{k} {v}" for k, v in result["protocol"].items() if v != [])]
    if "wider" in result:
        lines.append(_wider_line(result["wider"]))
    for rate, scored in result.get("rates", {}).items():
        bpp = "unknown" if scored["mean_bpp"] is None else f"{scored['mean_bpp']:.3f}"
        lines.append(f"rate {rate} ({bpp} bpp, {scored['latents']} latents, {', '.join(scored['picture_sizes'])})")
        lowest = result["protocol"]["min_height"]
        for band in ("all", "under 16", "16-32", "32-96", "over 96"):  # bands are of all faces, whatever `lowest` is
            score, name = scored[band], f"from {lowest:g}" if band == "all" and lowest else band
            lines.append(
                f"  {name:>9}  AP {_shown(score['ap'])}  recall {_shown(score['recall'])}  {score['truths']} faces"
            )
        nme = scored["landmarks"]
        lines.append(f"  landmarks  NME {_shown(nme['nme'])} of sqrt(width x height), {nme['faces']} faces")
        if "wider" in scored:
            lines.append("  " + _wider_line(scored["wider"]))
    if "cost" in result:
        lines.append("cost  " + cost_words(result["cost"]))
    return "\n".join(lines)


def _wider_line(score: dict[str, Any]) -> str:
    counts = ", ".join(f"{score[name]} {name}" for name in ("pictures", "missing", "empty", "unknown"))
    return "WIDER FACE  " + "  ".join(f"{name} {_shown(score[name])}" for name in DIFFICULTIES) + f"  ({counts})"


def _shown(value: float | None) -> str:
    return "   -  " if value is None else f"{value:.4f}"


def cost_words(cost: dict[str, Any]) -> str:
    """`cost` of an evaluation in a line."""
    work = "GMAC unknown" if cost["gmac"] is None else f"{cost['gmac']:.2f} GMAC"
    time = "not timed: too few batches" if cost["ms"] is None else f"{cost['ms']:.1f} ms"
    batches = f"median of {counted(cost['batches'], 'batch', 'batches')} of up to {cost['batch']}"
    return f"of a {cost['input']}: {work}, {time} ({ran_on(cost)}, {cost['precision']}, {batches})"
