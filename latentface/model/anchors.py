"""Priors: where they lie, which face each answers for, and how boxes and landmarks are told relative to them.

A prior is `cx cy width height` in picture pixels. Sizes, matching and coding as in RetinaFace (Deng et al. 2020) and
SSD (Liu et al. 2016), whose variances 0.1 and 0.2 scale centre and size offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

VARIANCE_CENTRE, VARIANCE_SIZE = 0.1, 0.2
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
MATCH_IOU = 0.35  # RetinaFace's
TRUTHS_AT_A_TIME = 64  # bounds memory: B x 16,800 x 64 floats = 4.3 MB per picture and intermediate


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # a cached tensor born in inference mode could not take part in training later
def priors(
    level_shapes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    sizes: tuple[tuple[int, ...], ...],
    device: torch.device,
) -> Tensor:
    """`make_priors`, computed once per picture size and device."""
    return make_priors(level_shapes, strides, sizes, device)


def make_priors(
    level_shapes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    sizes: tuple[tuple[int, ...], ...],
    device: torch.device,
) -> Tensor:
    """All priors of a picture, [A, 4], level by level, row by row, size by size.

    `level_shapes` holds (rows, columns) of each feature level; 16,800 priors for 640x640 with the default sizes.
    """
    levels = []
    for (rows, columns), stride, level_sizes in zip(level_shapes, strides, sizes, strict=True):
        y = (torch.arange(rows, device=device) + 0.5) * stride
        x = (torch.arange(columns, device=device) + 0.5) * stride
        side = torch.tensor(level_sizes, dtype=torch.float32, device=device)
        grid = torch.meshgrid(y, x, side, indexing="ij")  # each [rows, columns, sizes]
        levels.append(torch.stack([grid[1], grid[0], grid[2], grid[2]], dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def corners(priors: Tensor) -> Tensor:
    """`cx cy width height` -> `x1 y1 x2 y2`."""
    half = priors[..., 2:] / 2
    return torch.cat([priors[..., :2] - half, priors[..., :2] + half], dim=-1)


def encode_boxes(boxes: Tensor, priors: Tensor) -> Tensor:
    """`x1 y1 x2 y2` [..., A, 4] -> offsets relative to the priors [A, 4]."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 - priors[:, :2]
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)  # padding rows have no size; the logarithm needs one
    return torch.cat(
        [centre / (VARIANCE_CENTRE * priors[:, 2:]), torch.log(size / priors[:, 2:]) / VARIANCE_SIZE], dim=-1
    )


def decode_boxes(offsets: Tensor, priors: Tensor) -> Tensor:
    """Offsets [..., A, 4] -> `x1 y1 x2 y2` picture pixels. A size is at most e^4 times its prior's: no infinities."""
    centre = priors[:, :2] + offsets[..., :2] * VARIANCE_CENTRE * priors[:, 2:]
    half = priors[:, 2:] * torch.exp((offsets[..., 2:] * VARIANCE_SIZE).clamp(max=4.0)) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_landmarks(landmarks: Tensor, priors: Tensor) -> Tensor:
    """Five points [..., A, 10] `x y` picture pixels -> offsets relative to the priors [A, 4]."""
    points = landmarks.unflatten(-1, (5, 2)) - priors[:, None, :2]
    return (points / (VARIANCE_CENTRE * priors[:, None, 2:])).flatten(-2)


def decode_landmarks(offsets: Tensor, priors: Tensor) -> Tensor:
    """Offsets [..., A, 10] -> five points `x y` picture pixels, [..., A, 10]."""
    points = offsets.unflatten(-1, (5, 2)) * VARIANCE_CENTRE * priors[:, None, 2:]
    return (points + priors[:, None, :2]).flatten(-2)


def match(
    priors: Tensor, boxes: Tensor, valid: Tensor, ignore: Tensor, *, threshold: float = MATCH_IOU, forced: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Which face each prior answers for, on a whole batch at once.

    `boxes` [B, M, 4] padded, `valid` [B, M] real boxes, `ignore` [B, M] those of them that are no targets.
    Returns labels [B, A] (1 face, 0 background, -1 left out of the loss) and the face's index [B, A].
    A prior is a face where its best IoU reaches `threshold`; besides, each face claims its best prior where their IoU
    reaches `forced` (of several faces that claim one prior the last has it). Ignored boxes claim nothing; priors that
    overlap them by `threshold` or more are left out unless they answer for a face.
    """
    faces = valid.shape[1]
    target = valid & ~ignore
    prior_boxes = corners(priors)
    best_iou, best_face, overlaps_ignored = _nothing_matched(boxes, priors)
    claimed_by = torch.full_like(best_face, -1)
    for start in range(0, faces, TRUTHS_AT_A_TIME):
        part = slice(start, start + TRUTHS_AT_A_TIME)
        iou = batched_iou(boxes[:, part], prior_boxes)  # [B, m, A]
        overlaps_ignored |= ((iou >= threshold) & (valid & ignore)[:, part, None]).any(dim=1)
        iou = torch.where(target[:, part, None], iou, -1.0)
        face_iou, face = iou.max(dim=1)  # [B, A]
        best_face = torch.where(face_iou > best_iou, face + start, best_face)
        best_iou = torch.maximum(best_iou, face_iou)
        prior_iou, prior = iou.max(dim=2)  # [B, m]
        number = torch.arange(start, start + prior.shape[1], device=boxes.device).expand_as(prior)
        claim = torch.where(prior_iou >= forced, number, -1)
        claimed_by.scatter_reduce_(1, prior, claim, reduce="amax")
    claimed = claimed_by >= 0
    labels = _labels((best_iou >= threshold) | claimed, overlaps_ignored)
    return labels, torch.where(claimed, claimed_by, best_face)


def match_adaptively(
    priors: Tensor, boxes: Tensor, valid: Tensor, ignore: Tensor, levels: Sequence[int], *, nearest: int = 9
) -> tuple[Tensor, Tensor]:
    """ATSS (Zhang et al. 2020, algorithm 1): as `match`, with a threshold that every face sets for itself.

    A face's candidates are the `nearest` priors of each level by distance of centres (`levels` counts the priors of
    each); it takes those whose IoU reaches the candidates' mean plus standard deviation and whose centre lies inside,
    and in any case its best candidates (all of equals), as faces smaller than a cell have no centre inside. A prior
    that several faces take answers for the one it overlaps most. Ignored boxes do as in `match`.
    """
    faces = valid.shape[1]
    target = valid & ~ignore
    prior_boxes = corners(priors)
    best_iou, best_face, overlaps_ignored = _nothing_matched(boxes, priors)
    for start in range(0, faces, TRUTHS_AT_A_TIME):
        part = slice(start, start + TRUTHS_AT_A_TIME)
        iou = batched_iou(boxes[:, part], prior_boxes)  # [B, m, A]
        overlaps_ignored |= ((iou >= MATCH_IOU) & (valid & ignore)[:, part, None]).any(dim=1)
        candidates = _nearest(boxes[:, part], priors, levels, nearest)  # [B, m, K]
        overlap = iou.gather(2, candidates)
        threshold = overlap.mean(dim=2, keepdim=True) + overlap.std(dim=2, keepdim=True)
        inside = _inside(priors[candidates][..., :2], boxes[:, part, None])
        best = overlap == overlap.amax(dim=2, keepdim=True)
        taken = ((overlap >= threshold) & inside | best) & target[:, part, None]
        # Of the faces that take a prior the one it overlaps most; a touch of nothing still beats no face at all.
        claims = torch.full_like(iou, -1.0).scatter_(2, candidates, torch.where(taken, overlap, -1.0))
        face_iou, face = claims.max(dim=1)
        best_face = torch.where(face_iou > best_iou, face + start, best_face)
        best_iou = torch.maximum(best_iou, face_iou)
    return _labels(best_iou >= 0, overlaps_ignored), best_face


def _nothing_matched(boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Before any face is looked at, [B, A] each: best IoU (-1), its face (0), whether an ignored one is overlapped."""
    best_iou = boxes.new_full((len(boxes), len(priors)), -1.0)
    return best_iou, torch.zeros_like(best_iou, dtype=torch.int64), torch.zeros_like(best_iou, dtype=torch.bool)


def _labels(positive: Tensor, overlaps_ignored: Tensor) -> Tensor:
    labels = positive.long()
    labels[overlaps_ignored & ~positive] = IGNORED
    return labels


def _nearest(boxes: Tensor, priors: Tensor, levels: Sequence[int], count: int) -> Tensor:
    """Indices of the priors of each level whose centres are nearest to the boxes' [B, m, 4]: [B, m, K]."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    found, start = [], 0
    for size in levels:
        distance = torch.cdist(centres, priors[start : start + size, :2].expand(len(boxes), -1, -1))
        found.append(distance.topk(min(count, size), dim=2, largest=False).indices + start)
        start += size
    return torch.cat(found, dim=2)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points [..., 2] lie in boxes [..., 4]."""
    return ((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(dim=-1)


def batched_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair in each picture: [B, N, 4], [M, 4] or [B, M, 4] -> [B, N, M]."""
    if second.dim() == 2:
        second = second.unsqueeze(0)
    sides = [  # one axis at a time: two [B, N, M] tensors instead of [B, N, M, 2] pairs
        (
            torch.minimum(first[:, :, None, axis + 2], second[:, None, :, axis + 2])
            - torch.maximum(first[:, :, None, axis], second[:, None, :, axis])
        ).clamp_(min=0)
        for axis in (0, 1)
    ]
    intersection = sides[0] * sides[1]
    union = _area(first)[:, :, None] + _area(second)[:, None, :] - intersection
    return intersection / union.clamp_(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
