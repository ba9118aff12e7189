"""ATSS, quality focal loss and IoU-type box losses: by hand, and against a slow second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.model import anchors
from latentface.model.anchors import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    _inside,
    _nearest,
    corners,
    make_priors,
    match,
    match_adaptively,
)
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
def test_atss_agrees_with_a_slow_loop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "TRUTHS_AT_A_TIME", (64, 1, 2, 3)[seed % 4])
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


def one_face(*box: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([[box]]), torch.ones(1, 1).bool(), torch.zeros(1, 1).bool()


def test_a_face_looks_at_the_nine_nearest_priors_of_each_level() -> None:
    """One that overlaps nothing finds all of them equally good: what it takes are its candidates."""
    labels, face = match_adaptively(PRIORS, *one_face(1000, 1000, 1010, 1010), LEVELS)
    taken = labels[0] == POSITIVE
    assert [int(part.sum()) for part in taken.split(LEVELS)] == [9, 9, 8]  # the last level has only eight
    assert face[0][taken].eq(0).all()


def test_nearest_priors_by_hand() -> None:
    """Of two levels, three priors and one, at x = 0, 10, 20 and 100: nearest to centres 13 and 4, two of each."""
    table = torch.tensor([[0.0, 5, 8, 8], [10, 5, 8, 8], [20, 5, 8, 8], [100, 5, 8, 8]])
    boxes = torch.tensor([[[10.0, 0, 16, 10], [0, 0, 8, 10]]])
    assert _nearest(boxes, table, [3, 1], 2).tolist() == [[[1, 2, 3], [0, 1, 3]]]


def test_a_point_on_the_border_is_not_inside() -> None:
    points = torch.tensor([[1.0, 1], [0, 1], [2, 1], [1, 0], [1, 4], [1, 3.9]])
    assert _inside(points, torch.tensor([0.0, 0, 2, 4])).tolist() == [True, False, False, False, False, True]


def test_of_equal_overlaps_the_first_face_has_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[[4.0, 4, 20, 20], [4.0, 4, 20, 20]]])
    for at_a_time in (1, 2):
        monkeypatch.setattr(anchors, "TRUTHS_AT_A_TIME", at_a_time)
        labels, face = match_adaptively(PRIORS, boxes, torch.ones(1, 2).bool(), torch.zeros(1, 2).bool(), LEVELS)
        assert (labels == POSITIVE).any()
        assert not face.any()


def test_an_ignored_face_takes_priors_out_from_an_overlap_of_0_35() -> None:
    priors = torch.tensor([[10.0, 10, 20, 20], [90, 90, 20, 20]])
    box, valid, ignore = one_face(0, 0, 20, 7)  # 140 / 400
    assert match_adaptively(priors, box, valid, ~ignore, [2])[0].tolist() == [[IGNORED, NEGATIVE]]
    assert match_adaptively(priors, box, ~valid, ~ignore, [2])[0].tolist() == [[NEGATIVE, NEGATIVE]]
    assert match_adaptively(priors, one_face(0, 0, 20, 6.9)[0], valid, ~ignore, [2])[0].tolist() == [[0, 0]]


def test_ignored_faces_of_every_part_take_priors_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "TRUTHS_AT_A_TIME", 1)
    boxes = torch.cat([corners(PRIORS[[0, 40]]), torch.tensor([[30.0, 30, 62, 62]])])[None]
    labels, _ = match_adaptively(PRIORS, boxes, torch.ones(1, 3).bool(), torch.tensor([[True, True, False]]), LEVELS)
    assert (labels[0, 0], labels[0, 40]) == (IGNORED, IGNORED)


def test_the_loss_matches_as_it_is_told() -> None:
    truth = Targets(torch.tensor([[[4.0, 4, 20, 24]]]), torch.full((1, 1, 10), math.nan), *one_face(0, 0, 0, 0)[1:])
    adaptive = MultiTaskLoss(matching="atss")._match(PRIORS, truth, LEVELS)
    assert [t.tolist() for t in adaptive] == [
        t.tolist() for t in match_adaptively(PRIORS, truth.boxes, truth.valid, truth.ignore, LEVELS)
    ]
    for threshold in (0.35, 0.9):
        found = MultiTaskLoss(threshold=threshold)._match(PRIORS, truth, ())[0]
        wanted = match(PRIORS, truth.boxes, truth.valid, truth.ignore, threshold=threshold)[0]
        assert found.tolist() == wanted.tolist()
    assert (MultiTaskLoss()._match(PRIORS, truth, ())[0] == POSITIVE).sum() == 2  # 256 / 320 and 192 / 384
    assert (MultiTaskLoss(threshold=0.9)._match(PRIORS, truth, ())[0] == POSITIVE).sum() == 1  # forced
    with pytest.raises(LatentFaceError, match=r"^matching by atss has to know how many priors each level has$"):
        MultiTaskLoss(matching="atss")._match(PRIORS, truth, ())


def test_levels_reach_the_matching() -> None:
    truth = Targets(torch.tensor([[[4.0, 4, 20, 24]]]), torch.full((1, 1, 10), math.nan), *one_face(0, 0, 0, 0)[1:])
    predictions = {name: torch.zeros(1, len(PRIORS), width) for name, width in
                   (("scores", 2), ("boxes", 4), ("landmarks", 10))}  # fmt: skip
    positives = int((match_adaptively(PRIORS, truth.boxes, truth.valid, truth.ignore, LEVELS)[0] == POSITIVE).sum())
    losses = MultiTaskLoss(matching="atss")(predictions, truth, PRIORS, LEVELS)
    assert losses["classes"].item() == pytest.approx(8 * math.log(2))  # of each positive and its seven negatives
    assert 1 < positives < len(PRIORS) / 8


def quality_case(scores: Tensor) -> dict[str, Tensor]:
    """Losses of four priors: the face's, one that an ignored face takes out, two of background."""
    priors = torch.tensor([[8.0, 8, 16, 16], [108, 8, 16, 16], [208, 8, 16, 16], [308, 8, 16, 16]])
    truth = Targets(torch.tensor([[[0.0, 0, 16, 32], [100, 0, 116, 16]]]), torch.full((1, 2, 10), math.nan),
                    torch.ones(1, 2).bool(), torch.tensor([[False, True]]))  # fmt: skip
    offsets = torch.zeros(1, 4, 4, requires_grad=True)
    predictions = {"scores": scores, "boxes": offsets, "landmarks": torch.zeros(1, 4, 10)}
    losses = MultiTaskLoss(class_loss="quality", weights=(3.0, 0.0, 0.0))(predictions, truth, priors)
    losses["total"].backward()
    assert offsets.grad is not None
    assert not offsets.grad.any()  # the quality of a box is a goal for its score, and teaches the box nothing
    return losses


def test_quality_has_no_say_of_ignored_priors() -> None:
    scores = torch.tensor([[[0.0, 2], [0, 99], [1, 0], [0, 0]]])

    def by_hand(odds: float, goal: float) -> float:
        p = 1 / (1 + math.exp(-odds))
        return (goal - p) ** 2 * -(goal * math.log(p) + (1 - goal) * math.log(1 - p))

    losses = quality_case(scores)
    wanted = by_hand(2, 0.5) + by_hand(-1, 0) + by_hand(0, 0)  # IoU 0.5, and two of background
    assert losses["classes"].item() == pytest.approx(wanted, rel=1e-5)
    assert losses["total"].item() == pytest.approx(3 * wanted, rel=1e-5)


def test_quality_is_shared_among_the_positives() -> None:
    priors = torch.tensor([[8.0, 8, 16, 16], [108, 8, 16, 16]])
    truth = Targets(torch.tensor([[[0.0, 0, 16, 32], [100, 0, 116, 32]]]), torch.full((1, 2, 10), math.nan),
                    torch.ones(1, 2).bool(), torch.zeros(1, 2).bool())  # fmt: skip
    predictions = {"scores": torch.tensor([[[0.0, 1], [0, 1]]]), "boxes": torch.zeros(1, 2, 4),
                   "landmarks": torch.zeros(1, 2, 10)}  # fmt: skip
    losses = MultiTaskLoss(class_loss="quality")(predictions, truth, priors)
    one = quality_focal(torch.tensor(1.0), torch.tensor(0.5)).item()
    assert losses["classes"].item() == pytest.approx(one)


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


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("matching", "iou, atss"),
        ("box_loss", "smooth_l1, giou, diou, ciou"),
        ("class_loss", "mining, quality"),
    ],
)
def test_unknown_parts_are_refused(part: str, allowed: str) -> None:
    with pytest.raises(LatentFaceError, match=f"^{part} 'best' is none of {allowed}$"):
        MultiTaskLoss(**{part: "best"})


def test_there_is_a_weight_for_each_term() -> None:
    priors = torch.tensor([[8.0, 8, 16, 16]])
    truth = Targets(torch.tensor([[[0.0, 0, 16, 16]]]), torch.full((1, 1, 10), math.nan), *one_face(0, 0, 0, 0)[1:])
    predictions = {"scores": torch.zeros(1, 1, 2), "boxes": torch.zeros(1, 1, 4), "landmarks": torch.zeros(1, 1, 10)}
    with pytest.raises(ValueError, match="zip"):
        MultiTaskLoss(weights=(1.0, 2.0))(predictions, truth, priors)
