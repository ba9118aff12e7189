"""ATSS, quality focal loss and IoU-type box losses: by hand, and against a slow second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.model.anchors import IGNORED, POSITIVE, corners, make_priors, match_adaptively
from latentface.model.loss import MultiTaskLoss, Targets, paired_iou, quality_focal

SHAPES, STRIDES, SIZES = ((8, 8), (4, 4), (2, 2)), (8, 16, 32), ((16, 32), (64,), (256, 512))
LEVELS = [128, 16, 8]
PRIORS = make_priors(SHAPES, STRIDES, SIZES, torch.device("cpu"))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = float(np.prod(np.clip(sides, 0, None)))
    return inner / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - inner)


def match_slowly(boxes: np.ndarray, target: np.ndarray, nearest: int) -> list[tuple[int, float]]:
    """(face, IoU) for every prior, (-1, -1) for background: algorithm 1 of the paper, face by face."""
    priors, areas = PRIORS.numpy(), corners(PRIORS).numpy()
    taken = [(-1, -1.0)] * len(priors)
    for face, box in enumerate(boxes):
        if not target[face]:
            continue
        centre, candidates, start = (box[:2] + box[2:]) / 2, [], 0
        for size in LEVELS:
            distance = np.linalg.norm(priors[start : start + size, :2] - centre, axis=1)
            candidates += [start + int(k) for k in np.argsort(distance, kind="stable")[: min(nearest, size)]]
            start += size
        ious = np.array([overlap(box, areas[k]) for k in candidates])
        threshold = ious.mean() + ious.std(ddof=1)
        for k, iou in zip(candidates, ious, strict=True):
            inside = (priors[k, :2] > box[:2]).all() and (priors[k, :2] < box[2:]).all()
            if ((iou >= threshold - 1e-6 and inside) or iou >= ious.max() - 1e-6) and iou > taken[k][1]:
                taken[k] = (face, float(iou))
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_atss_agrees_with_a_slow_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, 50, (2, 5, 2)), random.uniform(3, 60, (2, 5, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + side], axis=2)).float()
    valid, ignore = torch.ones(2, 5).bool(), torch.from_numpy(random.random((2, 5)) < 0.2)
    labels, face = match_adaptively(PRIORS, boxes, valid, ignore, LEVELS, nearest=8)
    for picture in range(2):
        slow = match_slowly(boxes[picture].numpy(), ~ignore[picture].numpy(), nearest=8)
        found = torch.where(labels[picture] == POSITIVE, face[picture], -1)
        assert found.tolist() == [taken for taken, _ in slow]


def test_every_face_has_a_prior_however_small() -> None:
    boxes = torch.tensor([[[1.0, 1, 4, 4], [30, 30, 62, 62]]])
    labels, face = match_adaptively(PRIORS, boxes, torch.ones(1, 2).bool(), torch.zeros(1, 2).bool(), LEVELS)
    assert {int(f) for f in face[labels == POSITIVE]} == {0, 1}


def test_priors_on_an_ignored_face_are_left_out() -> None:
    box = corners(PRIORS[:1])[None]
    labels, _ = match_adaptively(PRIORS, box, torch.ones(1, 1).bool(), torch.ones(1, 1).bool(), LEVELS)
    assert labels[0, 0] == IGNORED
    assert not (labels == POSITIVE).any()


def test_quality_focal_loss_by_hand() -> None:
    found = quality_focal(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.8]))
    assert found.tolist() == pytest.approx([0.25 * math.log(2), 0.0, 0.09 * math.log(2)])


def test_scores_learn_the_overlap_of_their_box() -> None:
    """One prior of 16 x 16 on a face of 16 x 32 from the same corner: IoU 0.5, which even odds meet exactly."""
    priors = torch.tensor([[8.0, 8, 16, 16], [200, 200, 16, 16]])
    truth = Targets(torch.tensor([[[0.0, 0, 16, 32]]]), torch.full((1, 1, 10), math.nan),
                    torch.ones(1, 1).bool(), torch.zeros(1, 1).bool())  # fmt: skip
    predictions = {"scores": torch.zeros(1, 2, 2), "boxes": torch.zeros(1, 2, 4), "landmarks": torch.zeros(1, 2, 10)}
    losses = MultiTaskLoss(class_loss="quality", box_loss="giou")(predictions, truth, priors)
    assert losses["classes"].item() == pytest.approx(0.25 * math.log(2), abs=1e-6)  # only the background's is left
    assert losses["boxes"].item() == pytest.approx(0.5, abs=1e-5)  # the smallest box around both is the face itself


@pytest.mark.parametrize(("name", "wanted"), [("giou", 0.5), ("diou", 0.5 + 8**2 / (16**2 + 32**2))])
def test_box_losses_by_hand(name: str, wanted: float) -> None:
    priors = torch.tensor([[8.0, 8, 16, 16]])
    found = MultiTaskLoss(box_loss=name)._boxes(torch.zeros(1, 4), torch.tensor([[0.0, 0, 16, 32]]), priors)
    assert found.item() == pytest.approx(wanted, abs=1e-5)


def test_ciou_adds_the_shape() -> None:
    priors, truth = torch.tensor([[8.0, 8, 16, 16]]), torch.tensor([[0.0, 0, 16, 32]])
    shape = 4 / math.pi**2 * (math.atan(16 / 32) - math.atan(1)) ** 2
    wanted = 0.5 + 64 / 1280 + shape * shape / (0.5 + shape)
    assert MultiTaskLoss(box_loss="ciou")._boxes(torch.zeros(1, 4), truth, priors).item() == pytest.approx(wanted, 1e-4)


def test_paired_iou() -> None:
    first, second = Tensor([[0, 0, 2, 2], [0, 0, 1, 1]]), Tensor([[0, 0, 2, 1], [5, 5, 6, 6]])
    assert paired_iou(first, second).tolist() == [0.5, 0.0]


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(LatentFaceError, match="matching 'best' is none of iou, atss"):
        MultiTaskLoss(matching="best")
