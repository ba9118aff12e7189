"""The networks on the clock: latent to faces beside decoding and looking at pixels, bridges, post-processing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from latentface.apps.bench_timing import Row, compare, elapsed, operations_of
from latentface.codecs.base import Codec
from latentface.data.manifest import ManifestRow
from latentface.data.pictures import decode_picture
from latentface.model.anchors import corners, decode_boxes, decode_landmarks, encode_boxes
from latentface.model.backbone import PictureStem, build_resnet
from latentface.model.bridge import BRIDGES
from latentface.model.config import RESNETS, ModelConfig, fits
from latentface.model.cost import gmac
from latentface.model.faces import Thresholds, best_candidates, keep_boxes
from latentface.model.postprocess import face_scores, postprocess
from latentface.model.predict import predict
from latentface.model.retinaface import RetinaFace

USUAL = Thresholds(confidence=0.5)  # of detection; evaluation keeps everything from 0.02 on


@dataclass(frozen=True)
class Material:
    """Latents of one shape and what is needed to decode them."""

    latents: Tensor  # float32 [N, C, h, w]
    rate: int
    rows: list[ManifestRow | None]
    codec: Codec

    def batch(self, size: int) -> Tensor:
        """The first `size` latents, from the start again where there are fewer."""
        return self.latents[torch.arange(size) % len(self.latents)]

    def decode(self, size: int) -> Tensor:
        """The pictures of the same latents, [size, 3, H, W], 0 to 255, decoded one by one as a user would."""
        numbers = [number % len(self.latents) for number in range(size)]
        pictures = [decode_picture(self.codec, self.latents[n].numpy(), self.rate, self.rows[n]) for n in numbers]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def random_model(config: ModelConfig) -> RetinaFace:
    """Random weights that see a face nowhere: the network's cost without that of boxes, which has a row of its own."""
    torch.manual_seed(0)
    model = RetinaFace(config).eval()
    for head in model.class_heads:
        bias = head.bias.data.view(-1, 2)  # type: ignore[union-attr, operator]
        bias[:, 0], bias[:, 1] = 20, -20
    return model


def latent_against_pixels(
    material: Material, ours: Callable[[Tensor], object], twin: RetinaFace, *, batch: int, rounds: int, device: str
) -> Any:
    """Comparison of `ours(latents)` with decoding the same latents and running the picture-input twin."""
    latents = material.batch(batch)
    rates = torch.full((batch,), material.rate)

    def theirs() -> None:
        predict(twin, material.decode(batch), rates, thresholds=USUAL)

    return compare(lambda: ours(latents), theirs, rounds=rounds, device=device)


def bridge_rows(material: Material, *, rounds: int, device: str, backbones: tuple[str, ...] = RESNETS) -> list[Row]:
    """Every bridge of these ResNets beside the stem and layer1 that it stands for, at the latent's size."""
    rows = []
    latent = material.batch(1).to(device, memory_format=torch.channels_last)
    height, width = (16 * side for side in latent.shape[2:])
    picture = torch.randn(1, 3, height, width, device=device).to(memory_format=torch.channels_last)
    for backbone in backbones:
        stem = PictureStem(build_resnet(backbone, "none")).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for bridge in (name for name in BRIDGES if fits(backbone, name)):
            model = random_model(ModelConfig(backbone, bridge, channels=latent.shape[1])).to(device)
            entry = model.entry
            with torch.inference_mode():
                comparison = compare(partial(entry, latent), partial(stem, picture), rounds=rounds, device=device)
            facts = {
                "gmac": gmac(entry, latent),
                "against_gmac": gmac(stem, picture),
                "whole_network_gmac": gmac(model, latent, torch.tensor([material.rate], device=device)),
            }
            rows.append(Row(f"bridge {bridge}, {backbone}", "stem and layer1", comparison, 1.0, facts))
    return rows


def postprocessing_row(model: RetinaFace, latents: Tensor, *, rounds: int, device: str, confidence: float) -> Row:
    """Decode, top-k and suppression of a crowded picture, against the network that leads there."""
    priors = model.priors(latents.shape[2], latents.shape[3], torch.device(device))
    height, width = model.picture_size(latents.shape[2], latents.shape[3])
    predictions, faces = crowded_predictions(priors, width, height)
    thresholds = Thresholds(confidence=confidence)
    latents, rates = latents[:1].to(device, memory_format=torch.channels_last), torch.tensor([75], device=device)
    found = 0

    def ours() -> None:
        nonlocal found
        found = len(postprocess(predictions, priors, width=width, height=height, thresholds=thresholds)[0])

    with torch.inference_mode():
        comparison = compare(ours, lambda: model(latents, rates), rounds=rounds, device=device)
    facts = {
        "faces_drawn": faces,
        "faces_kept": found,
        "candidates": int((predictions["scores"].softmax(-1)[0, :, 1] >= confidence).sum()),
        "share_of_network": comparison.seconds / comparison.against_seconds,
        "steps": _steps(predictions, priors, thresholds, width, height, rounds=rounds, device=device),
    }
    return Row(f"post-processing of a crowded picture, confidence {confidence}", f"{model.config.backbone} network",
               comparison, 20.0, facts)  # fmt: skip


def _steps(
    predictions: dict[str, Tensor], priors: Tensor, thresholds: Thresholds, width: int, height: int, *,
    rounds: int, device: str,
) -> dict[str, float]:  # fmt: skip
    """Seconds of the parts of post-processing by themselves, medians: where its time goes."""
    scores = face_scores(predictions["scores"])[0].cpu().numpy()
    chosen = torch.from_numpy(best_candidates(scores, thresholds)).to(priors.device)
    boxes = decode_boxes(predictions["boxes"][0][chosen], priors[chosen]).cpu().numpy()
    faces = chosen[keep_boxes(boxes, width=width, height=height, thresholds=thresholds)[1]]
    parts: dict[str, Callable[[], object]] = {
        "scores": lambda: face_scores(predictions["scores"]).cpu(),
        "candidates": lambda: best_candidates(scores, thresholds),
        "boxes": lambda: decode_boxes(predictions["boxes"][0][chosen], priors[chosen]).cpu(),
        "suppression": lambda: keep_boxes(boxes, width=width, height=height, thresholds=thresholds),
        "landmarks": lambda: decode_landmarks(predictions["landmarks"][0][faces], priors[faces]).cpu(),
    }
    with torch.inference_mode():
        return {name: float(np.median([elapsed(part, device) for _ in range(rounds)])) for name, part in parts.items()}


def crowded_predictions(priors: Tensor, width: int, height: int, faces: int = 200) -> tuple[dict[str, Tensor], int]:
    """What a network says of `faces` faces of 10 to 60 px: every prior near one sees it, others are almost sure."""
    generator = torch.Generator().manual_seed(0)
    sizes = 10 + 50 * torch.rand(faces, 1, generator=generator) ** 2
    corner = torch.rand(faces, 2, generator=generator) * (torch.tensor([width, height]) - sizes)
    boxes = torch.cat([corner, corner + sizes], dim=1).to(priors.device)
    overlap, face = box_iou(corners(priors), boxes).max(dim=1)  # [A]
    noise = torch.randn(len(priors), generator=generator).to(priors.device)
    logit = torch.where(overlap > 0.2, 20 * (overlap - 0.35) + noise, -6 + noise)  # sure from IoU 0.35 on, as taught
    wobble = 0.3 * torch.randn(len(priors), 4, generator=generator).to(priors.device)
    return {
        "scores": torch.stack([torch.zeros_like(logit), logit], dim=1)[None],
        "boxes": (encode_boxes(boxes[face], priors) + wobble)[None],
        "landmarks": torch.zeros(1, len(priors), 10, device=priors.device),
    }, faces


def network_figures(
    model: nn.Module, inputs: tuple[Tensor, ...], limit: float, *, rounds: int, device: str
) -> dict[str, Any]:
    """GMAC, seconds, share of the machine's matrix product, and which operations the time goes to."""
    with torch.inference_mode():
        model(*inputs)
        seconds = float(np.median([elapsed(lambda: model(*inputs), device) for _ in range(rounds)]))
        operations = operations_of(lambda: model(*inputs))
    work = gmac(model, *inputs)
    return {
        "gmac": work,
        "seconds": seconds,
        "gmac_per_second": work / seconds,
        "share_of_matrix_product": work / seconds / limit,
        "operations": operations,
    }
