"""The training step beside a plain one: float32, channels first, one picture after the other in matching and loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from latentface.apps.bench_timing import Row, compare, comparison_of, elapsed, operations_of
from latentface.data.batches import EpochBatches, collate
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.packed import PackedStore
from latentface.data.reading import load_batches
from latentface.model.anchors import batched_iou, corners, encode_boxes, encode_landmarks
from latentface.model.config import ModelConfig
from latentface.model.loss import MultiTaskLoss, Targets
from latentface.model.retinaface import RetinaFace
from latentface.training.setup import pick_precision

FACES = 12  # per picture, as on WIDER FACE
BATCH = 8


def training_row(latents: Tensor, device: str, *, backbone: str, bridge: str, rounds: int) -> Row:
    """`latents` [B, C, h, w]: forward, loss, backward and optimiser of a batch, ours against the plain step."""
    place = torch.device(device)
    latents = latents.to(place)
    ours, model, precision = _step(latents, place, backbone, bridge)
    rates = torch.full((len(latents),), 75, device=place)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    targets = _targets(latents).to(place)
    priors = model.priors(latents.shape[2], latents.shape[3], place)
    looped = torch.optim.SGD(plain.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, foreach=False)

    def theirs() -> None:
        looped.zero_grad()
        plain_loss(plain(latents, rates), targets, priors).backward()
        looped.step()

    comparison = compare(ours, theirs, rounds=rounds, device=place)
    facts: dict[str, object] = {
        "batch": len(latents),
        "precision": str(precision).removeprefix("torch."),
        "faces_per_picture": FACES,
        "pictures_per_second": len(latents) / comparison.seconds,
        "operations": operations_of(ours),
    }
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
        ours()
        facts["peak_gpu_mb"] = torch.cuda.max_memory_allocated(place) / 1e6
    return Row(f"training step, {backbone}, {bridge} bridge", "plain float32 step, matching per picture", comparison,
               1.5, facts)  # fmt: skip


def compile_row(latents: Tensor, device: str, *, backbone: str, bridge: str, rounds: int) -> Row:
    """A training step after `torch.compile`, against the same step without it."""
    place = torch.device(device)
    latents = latents.to(place)
    ours, _, precision = _step(latents, place, backbone, bridge, compiled=True)
    theirs, _, _ = _step(latents, place, backbone, bridge)
    seconds = elapsed(ours, place)
    comparison = compare(ours, theirs, rounds=rounds, device=place)
    facts = {
        "batch": len(latents),
        "precision": str(precision).removeprefix("torch."),
        "seconds_of_the_first_step": seconds,
    }
    return Row(f"training step by torch.compile, {backbone}, {bridge} bridge", "the step without it", comparison,
               None, facts)  # fmt: skip


def supply_row(split: Path, device: str, *, backbone: str, bridge: str, workers: int, rounds: int) -> Row:
    """Whether reading keeps up: a batch of a packed split by the training's own loader, against a step with it."""
    dataset = NestedLatentWiderFaceDataset.of_split(split, rates=PackedStore(split).rates[:1])
    batches = EpochBatches(len(dataset), min(BATCH, len(dataset)), seed=0)
    place = torch.device(device)
    loader = load_batches(dataset, collate, workers, batch_sampler=batches, pin_memory=place.type == "cuda")
    step, _, precision = _step(next(iter(loader)).decoded(place), place, backbone, bridge)

    def read() -> None:
        for _ in loader:
            pass

    seconds = np.array([[elapsed(read) / len(batches), elapsed(step, place)] for _ in range(rounds + 1)])[1:]
    facts = {"workers": workers, "batch": batches.batch_size, "pictures": len(dataset)} | {
        f"pictures_per_second_{name}": batches.batch_size / median
        for name, median in zip(("read", "trained"), np.median(seconds, axis=0).tolist(), strict=True)
    }
    name = str(precision).removeprefix("torch.")
    return Row(f"a batch from the loader, {PackedStore(split).info.dtype}, {workers} workers",
               f"training step, {backbone}, {bridge} bridge, {name}", comparison_of(seconds), 1.0, facts)  # fmt: skip


def _step(
    latents: Tensor, place: torch.device, backbone: str, bridge: str, *, compiled: bool = False
) -> tuple[Callable[[], None], RetinaFace, torch.dtype]:
    """A training step as `latentface train` takes it, on one batch again and again; its network and precision."""
    torch.manual_seed(0)
    model = RetinaFace(ModelConfig(backbone, bridge, channels=latents.shape[1])).to(place).train()
    if compiled:
        model.compile()
    targets = _targets(latents).to(place)
    rates = torch.full((len(latents),), 75, device=place)
    priors = model.priors(latents.shape[2], latents.shape[3], place)
    precision = pick_precision("auto", place)
    fused = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
    last = latents.to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(place.type, dtype=precision, enabled=precision != torch.float32):
            predictions = model(last, rates)
        fused.zero_grad(set_to_none=True)
        MultiTaskLoss()(predictions, targets, priors)["total"].backward()
        fused.step()

    return step, model, precision


def plain_loss(predictions: dict[str, Tensor], targets: Targets, priors: Tensor) -> Tensor:
    """The multi-task loss as written by hand in public code: loops over pictures and faces, negatives by two sorts."""
    labels, box_goals, point_goals = [], [], []
    for boxes, points in zip(targets.boxes, targets.landmarks, strict=True):
        iou = batched_iou(boxes[None], corners(priors))[0]  # [M, A]
        best, face = iou.max(dim=0)
        for number, claimed in enumerate(iou.argmax(dim=1)):
            best[claimed], face[claimed] = 2, number
        labels.append(best >= 0.35)
        box_goals.append(encode_boxes(boxes[face], priors))
        point_goals.append(encode_landmarks(points[face], priors))
    positive, goals, marks = torch.stack(labels), torch.stack(box_goals), torch.stack(point_goals)
    count = positive.sum().clamp(min=1)
    boxes_loss = F.smooth_l1_loss(predictions["boxes"][positive], goals[positive], reduction="sum") / count
    points_loss = F.smooth_l1_loss(predictions["landmarks"][positive], marks[positive], reduction="sum") / count
    cost = F.cross_entropy(predictions["scores"].flatten(0, 1), positive.flatten().long(), reduction="none")
    cost = cost.view_as(positive)
    rank = cost.masked_fill(positive, 0).sort(dim=1, descending=True).indices.sort(dim=1).indices
    negative = rank < (7 * positive.sum(dim=1, keepdim=True)).clamp(max=positive.shape[1] - 1)
    return cost[positive | negative].sum() / count + 2 * boxes_loss + points_loss


def _targets(latents: Tensor) -> Targets:
    """Faces of 16 to 100 px anywhere."""
    generator = torch.Generator().manual_seed(0)
    side = 16 * min(latents.shape[2:])
    shape = (len(latents), FACES, 1)
    sizes = 16 + 84 * torch.rand(shape, generator=generator)
    corner = (side - sizes) * torch.rand((*shape[:2], 2), generator=generator)
    boxes = torch.cat([corner, corner + sizes], dim=2)
    landmarks = (corner + sizes / 2).repeat(1, 1, 5)
    real = torch.ones(shape[:2], dtype=torch.bool)
    return Targets(boxes, landmarks, real, ~real)
