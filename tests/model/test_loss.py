from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from latentface.model.anchors import IGNORED, NEGATIVE, POSITIVE, corners, match
from latentface.model.loss import MultiTaskLoss, Targets

LN2 = math.log(2)


def row_of_priors(count: int) -> Tensor:
    """Priors of 16 x 16 pixels side by side without overlap, [count, 4]."""
    return torch.tensor([[8.0 + 32 * i, 8, 16, 16] for i in range(count)])


def zeros(pictures: int, priors: int) -> dict[str, Tensor]:
    """Predictions that say nothing: even odds, boxes and landmarks at the priors."""
    widths = {"scores": 2, "boxes": 4, "landmarks": 10}
    return {name: torch.zeros(pictures, priors, width) for name, width in widths.items()}


def targets(boxes: Tensor, landmarks: Tensor | None = None, ignore: Tensor | None = None) -> Targets:
    """All boxes [B, M, 4] valid; landmarks unknown and nothing ignored unless given."""
    pictures, faces = boxes.shape[:2]
    return Targets(
        boxes,
        torch.full((pictures, faces, 10), math.nan) if landmarks is None else landmarks,
        torch.ones(pictures, faces).bool(),
        torch.zeros(pictures, faces).bool() if ignore is None else ignore,
    )


def gradients(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def on_priors(priors: Tensor, *numbers: int) -> Tensor:
    """Faces of one picture that are exactly these priors, [1, M, 4]."""
    return corners(priors[list(numbers)])[None]


def test_each_term_by_hand():
    priors = row_of_priors(10)
    predictions = zeros(1, 10)
    predictions["scores"][0, 8:, 0] = 50.0  # two easy negatives: of nine, the seven undecided ones are mined
    predictions["boxes"][0, 0] = torch.tensor([0.5, 2.0, 0.0, -1.0])  # smooth L1: 0.125 + 1.5 + 0 + 0.5
    predictions["landmarks"][0, 0] = 2.0  # ten times 1.5
    predictions["boxes"][0, 1:] = predictions["landmarks"][0, 1:] = 99.0  # negatives have no box
    truth = targets(on_priors(priors, 0), landmarks=torch.tensor([8.0, 8]).repeat(5)[None, None])
    losses = MultiTaskLoss()(predictions, truth, priors)
    assert losses["classes"].item() == pytest.approx(8 * LN2)  # one positive and seven negatives, over one positive
    assert losses["boxes"].item() == pytest.approx(2.125)
    assert losses["landmarks"].item() == pytest.approx(15.0)
    assert losses["total"].item() == pytest.approx(8 * LN2 + 2 * 2.125 + 15.0)


def test_goals_are_encoded_offsets():
    priors = row_of_priors(1)
    face = torch.tensor([[[2.0, 0, 18, 16]]])  # 2 px to the right of the prior: 2 / (0.1 * 16) = 1.25
    points = torch.tensor([8.0 + 1.6, 8]).repeat(5)[None, None]  # offsets (1, 0), five times
    predictions = zeros(1, 1)
    predictions["boxes"][0, 0, 0] = 1.25
    predictions["landmarks"][0, 0, ::2] = 1.0
    losses = MultiTaskLoss()(predictions, targets(face, points), priors)
    assert losses["boxes"].item() == pytest.approx(0, abs=1e-9)
    assert losses["landmarks"].item() == pytest.approx(0, abs=1e-9)


def test_the_hardest_negatives_are_mined():
    priors = row_of_priors(11)
    predictions = zeros(1, 11)
    margins = torch.tensor([3.0, -4, 1, -2, 5, -6, 2, -1, 4, -3])
    predictions["scores"][0, 1:, 1] = margins  # -log p(background) = log(1 + e^margin)
    seven = [5.0, 4, 3, 2, 1, -1, -2]
    expected = LN2 + sum(math.log1p(math.exp(margin)) for margin in seven)
    losses = MultiTaskLoss()(predictions, targets(on_priors(priors, 0)), priors)
    assert losses["classes"].item() == pytest.approx(expected)


def test_negatives_are_mined_in_each_picture_for_itself():
    priors = row_of_priors(30)
    predictions = zeros(2, 30)
    predictions["scores"][1, :, 1] = 10.0  # the second picture's negatives are harder, but it may have only seven
    faces = torch.cat([on_priors(priors, 0, 1), on_priors(priors, 0, 0)])
    losses = MultiTaskLoss()(predictions, targets(faces), priors)
    hard, easy = math.log1p(math.exp(10)), math.log1p(math.exp(-10))
    assert losses["classes"].item() == pytest.approx((2 * LN2 + 14 * LN2 + easy + 7 * hard) / 3)


def test_all_negatives_are_taken_where_there_are_too_few():
    priors = row_of_priors(3)
    losses = MultiTaskLoss()(zeros(1, 3), targets(on_priors(priors, 0)), priors)
    assert losses["classes"].item() == pytest.approx(3 * LN2)


@pytest.mark.parametrize("padding", [0, 2])
def test_pictures_without_faces_teach_seven_negatives_each(padding):
    nothing = Targets(
        torch.zeros(2, padding, 4),
        torch.full((2, padding, 10), math.nan),
        torch.zeros(2, padding).bool(),
        torch.zeros(2, padding).bool(),
    )
    losses = MultiTaskLoss()(zeros(2, 12), nothing, row_of_priors(12))
    assert losses["classes"].item() == pytest.approx(14 * LN2)
    assert losses["boxes"].item() == losses["landmarks"].item() == 0


def test_landmarks_are_averaged_over_the_faces_that_have_them():
    priors = row_of_priors(2)
    landmarks = torch.full((1, 2, 10), math.nan)
    landmarks[0, 0] = torch.tensor([8.0, 8]).repeat(5)
    landmarks[0, 1, :9] = 40.0  # one value unknown: none is used
    predictions = zeros(1, 2)
    predictions["landmarks"][0, 0, 0] = 3.0  # smooth L1: 2.5
    predictions["boxes"][0, :, 0] = 2.0  # 1.5 each, over two positives
    losses = MultiTaskLoss()(predictions, targets(on_priors(priors, 0, 1), landmarks), priors)
    assert losses["landmarks"].item() == pytest.approx(2.5)
    assert losses["boxes"].item() == pytest.approx(1.5)


def random_case(seed: int) -> tuple[dict[str, Tensor], Targets, Tensor]:
    """Four pictures: known landmarks, some unknown, none known, no face at all; some faces ignored, some padding."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(80, 2, generator=generator) * 160
    sides = 16 * 2 ** (2 * torch.rand(80, 1, generator=generator))
    priors = torch.cat([centres, sides, sides], dim=1)
    near = torch.randint(80, (4, 6), generator=generator)
    boxes = corners(priors[near]) + 4 * torch.rand(4, 6, 4, generator=generator)
    landmarks = 160 * torch.rand(4, 6, 10, generator=generator)
    landmarks[1, ::2] = landmarks[2] = math.nan
    valid = torch.rand(4, 6, generator=generator) < 0.8
    valid[:3, 0], valid[3] = True, False
    ignore = torch.rand(4, 6, generator=generator) < 0.3
    ignore[:3, 0], ignore[0, 1], valid[0, 1] = False, True, True
    boxes[~valid] = 0
    predictions = {name: 3 * torch.randn(t.shape, generator=generator) for name, t in zeros(4, 80).items()}
    return predictions, Targets(boxes, landmarks, valid, ignore), priors


def loss_slowly(predictions: dict[str, Tensor], truth: Targets, priors: Tensor) -> dict[str, float]:
    """The same in float64, one picture and one prior at a time."""
    labels, face = (t.numpy() for t in match(priors, truth.boxes, truth.valid, truth.ignore))
    scores, offsets, points = (predictions[name].double().numpy() for name in ("scores", "boxes", "landmarks"))
    boxes, landmarks, table = (t.double().numpy() for t in (truth.boxes, truth.landmarks, priors))

    def smooth_l1(error: np.ndarray) -> float:
        error = abs(error)
        return float(np.where(error < 1, error**2 / 2, error - 0.5).sum())

    sums = {"classes": 0.0, "boxes": 0.0, "landmarks": 0.0}
    positives = with_landmarks = 0
    for picture in range(len(scores)):
        log_p = scores[picture] - np.log(np.exp(scores[picture]).sum(axis=1, keepdims=True))
        mine = np.flatnonzero(labels[picture] == POSITIVE)
        for prior in mine:
            (cx, cy, width, height), (x1, y1, x2, y2) = table[prior], boxes[picture, face[picture, prior]]
            centre = [((x1 + x2) / 2 - cx) / (0.1 * width), ((y1 + y2) / 2 - cy) / (0.1 * height)]
            size = [np.log((x2 - x1) / width) / 0.2, np.log((y2 - y1) / height) / 0.2]
            sums["boxes"] += smooth_l1(offsets[picture, prior] - np.array(centre + size))
            known = landmarks[picture, face[picture, prior]].reshape(5, 2)
            if np.isfinite(known).all():
                goal = (known - [cx, cy]) / [0.1 * width, 0.1 * height]
                sums["landmarks"] += smooth_l1(points[picture, prior] - goal.ravel())
                with_landmarks += 1
        sums["classes"] -= log_p[mine, 1].sum()
        hardest = sorted(-log_p[labels[picture] == NEGATIVE, 0], reverse=True)
        sums["classes"] += sum(hardest[: 7 * max(len(mine), 1)])
        positives += len(mine)
    means = {name: value / max(positives, 1) for name, value in sums.items()}
    means["landmarks"] = sums["landmarks"] / max(with_landmarks, 1)
    return means | {"total": means["classes"] + 2 * means["boxes"] + means["landmarks"]}


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_a_slow_loop(seed):
    predictions, truth, priors = random_case(seed)
    labels, _ = match(priors, truth.boxes, truth.valid, truth.ignore)
    assert (labels[:3] == POSITIVE).any(dim=1).all()  # else the case would show little
    assert (labels[3] == NEGATIVE).all()
    assert (labels == IGNORED).any()
    found = MultiTaskLoss()(predictions, truth, priors)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        loss_slowly(predictions, truth, priors), rel=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite_where_landmarks_are_not(scale, dtype):
    predictions, truth, priors = random_case(0)
    leaves = {name: (scale * t).to(dtype).requires_grad_() for name, t in predictions.items()}
    losses = MultiTaskLoss()(leaves, truth, priors)
    losses["total"].backward()
    assert all(term.isfinite() for term in losses.values())
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients(leaves).values())
    assert not gradients(leaves)["landmarks"][2].any()  # nobody knows the landmarks of the third picture


def test_boxes_without_a_size_do_not_spoil_the_loss():
    priors = row_of_priors(3)
    faces = torch.tensor([[[8.0, 8, 8, 8], [0, 0, 16, 16], [5, 9, 30, 9], [9, 9, 2, 2]]])
    leaves = {name: t.requires_grad_() for name, t in zeros(1, 3).items()}
    losses = MultiTaskLoss()(leaves, targets(faces), priors)
    losses["total"].backward()
    assert losses["total"].item() == pytest.approx(3 * LN2)
    assert all(gradient.isfinite().all() for gradient in gradients(leaves).values())


def test_ignored_priors_contribute_nothing():
    predictions, truth, priors = random_case(1)
    ignored = match(priors, truth.boxes, truth.valid, truth.ignore)[0] == IGNORED
    before = MultiTaskLoss()(predictions, truth, priors)
    predictions["scores"][ignored] = torch.tensor([0.0, 30])  # would be the hardest negatives by far
    leaves = {name: t.requires_grad_() for name, t in predictions.items()}
    after = MultiTaskLoss()(leaves, truth, priors)
    after["total"].backward()
    assert after["total"].item() == before["total"].item()
    assert ignored.any()
    assert gradients(leaves).keys() == leaves.keys()
    assert all(not gradient[ignored].any() for gradient in gradients(leaves).values())


def test_targets_move_together():
    moved = random_case(0)[1].to(torch.device("meta"))
    assert {t.device.type for t in (moved.boxes, moved.landmarks, moved.valid, moved.ignore)} == {"meta"}
