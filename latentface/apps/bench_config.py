"""Every setting of `latentface bench`."""

from __future__ import annotations

from dataclasses import dataclass

from latentface.codecs import CODECS
from latentface.options import option

PARTS = (
    "limits",
    "detection",
    "bridges",
    "postprocessing",
    "training",
    "compile",
    "reading",
    "supply",
    "encode",
    "wider",
    "memory",
)


@dataclass
class BenchConfig:
    """Measures every stage beside what one would do instead; writes a JSON file and a Markdown table."""

    dataset_root: str = option("", "dataset with real latents (its val split is used); empty: drawn pictures by dct")
    rate: int = option(75, "rate of the latents looked at")
    codec: str = option("", "codec that decodes them, where no manifest says it", choices=("", *CODECS))
    codec_weights: str = option("", "folder of the codec's networks (jpegai)")
    photographs: str = option("", "folder of photographs to encode; empty: drawn ones")
    wider_predictions: str = option(
        "", "folder of prediction files, to time WIDER evaluation, which needs all of --wider_...; empty: not timed"
    )
    wider_ground_truth: str = option("", "folder of the official wider_*_val.mat files")
    wider_reference: str = option("", "built folder with the reference's evaluation.py")
    wider_python: str = option("python3", "Python that it was built for")
    parts: tuple[str, ...] = option(PARTS, "what to measure", choices=PARTS)
    backbone: str = option("resnet50", "backbone of the pixel side and of the large model")
    models: tuple[str, ...] = option((), "of detection, only models of these backbones; empty: all")
    rounds: int = option(7, "how often each pair is measured")
    samples: int = option(2000, "very small samples on which the memory of whole commands is measured")
    threads: int = option(0, "threads of every network; 0: one per core")
    device: str = option("cpu", "where networks run, e.g. cuda:0")
    quick: bool = option(False, "small pictures, two rounds: only to see that everything runs")
    out: str = option("records", "folder for bench_<machine>.json and bench_<machine>.md")
    machine: str = option("", "name of the machine in the files' names; empty: its processor, or the GPU of --device")
