"""`latentface export`: a checkpoint -> one ONNX file, in float32 or int8, checked against torch before it is kept.

Or, by the suffix `.pth`, a checkpoint of half the size: to share, not to train on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentface.codecs.base import UNKNOWN_INDEX
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.errors import LatentFaceError
from latentface.files import replacing
from latentface.inference.graph import DecodedRetinaFace, write_graph
from latentface.inference.onnx_file import OUTPUTS, open_session, widened
from latentface.machine import cores
from latentface.model.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_atomically
from latentface.model.config import check_channels
from latentface.model.retinaface import RetinaFace
from latentface.options import option
from latentface.progress import progress

FLOAT_TOLERANCE = 1e-3  # of a score; more means that the graph is another model
LOOKED_AT = 0.05  # scores from which differences of boxes count


@dataclass
class ExportConfig:
    """Writes a checkpoint as one ONNX file (raw latents and rate in, boxes, scores and landmarks out), or halved."""

    weight: str = option(help="checkpoint, e.g. weight_final.pth", positional=True)
    out: str = option("model.onnx", "file to write: .onnx, or .pth for a checkpoint with its weights in float16")
    network: str = option("", "backbone that the checkpoint has to hold; empty: whatever it holds")
    int8: bool = option(False, "convolutions in 8-bit integers, ranges measured on --calibration")
    calibration: str = option("", "split of a dataset, e.g. ROOT/train, to measure ranges on and to check with")
    calibration_pictures: int = option(64, "latents to measure ranges on, spread over the split and its rates")

    def __post_init__(self) -> None:
        if self.int8 and not self.calibration:
            raise LatentFaceError("--int8 needs --calibration DIR, a split of a dataset such as ROOT/train")
        if self.calibration_pictures < 1:
            raise LatentFaceError("--calibration_pictures has to be 1 or more")
        if Path(self.out).suffix.lower() not in (".onnx", ".pth"):
            raise LatentFaceError(f"--out {self.out}: give it the suffix .onnx or .pth, by which it is known again")


def run(config: ExportConfig) -> Path:
    """Exports, compares with torch, and only then puts the file in its place."""
    checkpoint = load_checkpoint(config.weight, config.network or None)
    if checkpoint.config.input != "latent":
        raise LatentFaceError(f"{config.weight}: takes {checkpoint.config.input}s; only models on latents are exported")
    out = Path(config.out)
    if not out.parent.is_dir():
        raise LatentFaceError(f"--out {out}: no folder {out.parent}; make it first")
    if out.suffix.lower() == ".pth":
        return _write_halved(checkpoint, out)
    model = checkpoint.build().eval()
    print(f"{config.weight}: traced, then compared with the checkpoint; a minute on a slow processor", flush=True)
    samples = list(_calibration(config, model)) if config.calibration else list(_made_up(model))
    facts = checkpoint.facts | {
        "precision": "int8" if config.int8 else "float32",
        "exported_from": Path(config.weight).name,
    }
    with replacing(out) as temporary:
        write_graph(model, facts, temporary)
        largest = largest_difference(model, temporary, samples[:8])
        if largest["score"] > FLOAT_TOLERANCE:
            raise LatentFaceError(
                f"the exported graph differs from torch by {largest['score']:.2g} in a score: nothing is written; "
                "try another version of torch or onnxruntime"
            )
        if config.int8:
            quantise(temporary, samples)
            largest = largest_difference(model, temporary, samples[:8])
    kind = "real" if config.calibration else "made-up"
    print(f"largest difference from torch: {largest['score']:.2g} of a score, {largest['box']:.2g} px of a box (where "
          f"scores are over {LOOKED_AT}), on {min(8, len(samples))} {kind} latents")  # fmt: skip
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return out


def _write_halved(checkpoint: Checkpoint, out: Path) -> Path:
    """Weights of convolutions in float16; statistics, whose range is wider, as they are. No paths of this machine."""
    state = {
        name: tensor.half() if tensor.dim() > 2 and tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.state.items()
    }
    settings = {
        "format": FORMAT,
        "model": asdict(checkpoint.config),
        "state": state,
        "facts": _without_paths(checkpoint.facts),
    }
    save_atomically(settings, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return out


def _without_paths(facts: Any) -> Any:
    """Settings and notes as they are, but for texts that name a place."""
    if not isinstance(facts, dict):
        return facts
    places = {name for name, value in facts.items() if isinstance(value, str) and ("/" in value or "\\" in value)}
    return {name: _without_paths(value) for name, value in facts.items() if name not in places}


def largest_difference(model: RetinaFace, path: Path, samples: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Between torch and the graph in `path`: of a score, and of a box's side in pixels where torch sees something."""
    session = open_session(path, cores())
    decoded = DecodedRetinaFace(model).eval()
    largest = {"score": 0.0, "box": 0.0}
    for sample in samples:
        with torch.inference_mode():
            wanted: list[Tensor] = list(decoded(*map(torch.from_numpy, sample.values())))
        boxes, scores, _ = session.run(list(OUTPUTS), sample)
        seen = wanted[1].numpy() >= LOOKED_AT
        largest["score"] = max(largest["score"], float(np.abs(scores - wanted[1].numpy()).max()))
        largest["box"] = max(largest["box"], float(np.abs(boxes - wanted[0].numpy())[seen].max(initial=0.0)))
    return largest


def _calibration(config: ExportConfig, model: RetinaFace) -> Iterator[dict[str, np.ndarray]]:
    """Real latents, one each, going through the rates in turn."""
    dataset = NestedLatentWiderFaceDataset.of_split(config.calibration, rates=model.normalisation.known_rates)
    views = [view for rate in dataset.rates if len(view := dataset.at_rate(rate))]
    count, counts = min(config.calibration_pictures, len(dataset)), model.normalisation.channel_counts
    for number, place in enumerate(progress(np.linspace(0, 1, count), "calibration", unit="latent")):
        view = views[number % len(views)]
        sample = view[round(place * (len(view) - 1))]
        check_channels(counts, len(sample.latent), np.array([sample.rate]), np.array([sample.model_index]))
        yield feed(widened(sample.values[None], model.config.channels), sample.rate, sample.model_index)


def _made_up(model: RetinaFace) -> Iterator[dict[str, np.ndarray]]:
    """Noise as strong as the latents of each rate, several sizes: enough to see that two graphs are one."""
    random = np.random.default_rng(0)
    for rate in model.normalisation.known_rates or (0,):
        for height, width in ((5, 7), (16, 9)):
            noise = random.standard_normal((1, model.config.channels, height, width), dtype=np.float32)
            row = int(model.normalisation.rate_rows[list(model.normalisation.known_rates).index(rate)]) if rate else 0  # type: ignore[index]
            inverse = model.normalisation.inverse_deviation[row]  # type: ignore[index]
            deviation = torch.where(inverse > 0, 1 / inverse, 0.0)  # nothing where its latents have no channel
            mean = model.normalisation.mean[row]  # type: ignore[index]
            latent = noise * deviation.numpy()[:, None, None] + mean.numpy()[:, None, None]
            yield feed(latent, rate)


def feed(latent: np.ndarray, rate: int, model_index: int = UNKNOWN_INDEX) -> dict[str, np.ndarray]:
    """Inputs of the graph for one latent [1, C, h, w]."""
    return {
        "latents": np.array(latent, dtype=np.float32),
        "rates": np.array([rate]),
        "model_indices": np.array([model_index]),
    }


def quantise(path: Path, samples: list[dict[str, np.ndarray]]) -> None:
    """Convolutions of the graph in `path` to int8: weights per channel, activations by their range on `samples`.

    Normalisation, upsampling, depthwise convolutions and the decoding of boxes stay in float32: they cost little and
    their ranges are wide. Ranges are averaged over the samples, so that one outlier does not coarsen all (on
    earlier weights both together lost 0.8 points of AP, plain int8 2.3). What leaves more in float32 brings and costs:
    `what_loses` in records/int8.json.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(str(prepared), load_external_data=False).graph.node
        depthwise = [node.name for node in nodes if any(a.name == "group" and a.i > 1 for a in node.attribute)]
        quantize_static(
            str(prepared), str(path), Samples(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
            nodes_to_exclude=depthwise, extra_options={"CalibMovingAverage": True},
        )  # fmt: skip
