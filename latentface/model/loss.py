"""RetinaFace's multi-task loss: face or not, box, five landmarks (Deng et al. 2020, eq. 1).

Classification by cross-entropy with seven hard negatives for every positive (online hard example mining), boxes and
landmarks by smooth L1 on encoded offsets, weighted 1 : 2 : 1 as in the PyTorch implementations in public use (the
paper weighs them 1 : 0.25 : 0.1), each divided by its number of positives. One departure: a picture without faces
contributes seven negatives; there it contributes none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from latentface.model.anchors import NEGATIVE, POSITIVE, encode_boxes, encode_landmarks, match


@dataclass(frozen=True)
class Targets:
    """The faces of a batch, padded to the largest number of faces in one picture."""

    boxes: Tensor  # [B, M, 4] x1 y1 x2 y2, picture pixels
    landmarks: Tensor  # [B, M, 10], NaN where unknown
    valid: Tensor  # [B, M] a real box, not padding
    ignore: Tensor  # [B, M] a real box that is no target

    def to(self, device: torch.device) -> Targets:
        moved = (t.to(device, non_blocking=True) for t in (self.boxes, self.landmarks, self.valid, self.ignore))
        return Targets(*moved)


@dataclass(frozen=True)
class MultiTaskLoss:
    """`loss(predictions, targets, priors)` -> a dict with `total` and its terms, each a scalar tensor."""

    threshold: float = 0.35
    negatives_per_positive: int = 7
    weights: tuple[float, ...] = (1.0, 2.0, 1.0)  # of classes, boxes and landmarks

    def __call__(self, predictions: dict[str, Tensor], targets: Targets, priors: Tensor) -> dict[str, Tensor]:
        logits, offsets, points = (predictions[name].float() for name in ("scores", "boxes", "landmarks"))
        labels, face = match(priors, targets.boxes, targets.valid, targets.ignore, threshold=self.threshold)
        positive = labels == POSITIVE
        positives = positive.sum().clamp(min=1)
        picture, prior = positive.nonzero(as_tuple=True)  # [P] each: only positives are encoded
        chosen = face[picture, prior]
        box_goal = encode_boxes(targets.boxes[picture, chosen], priors[prior])
        boxes = F.smooth_l1_loss(offsets[picture, prior], box_goal, reduction="sum") / positives
        landmarks = self._landmarks(points[picture, prior], targets.landmarks[picture, chosen], priors[prior])
        classes = self._classes(logits, labels) / positives
        terms = (classes, boxes, landmarks)
        total = torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
        return {"total": total, "classes": classes, "boxes": boxes, "landmarks": landmarks}

    def _landmarks(self, points: Tensor, truth: Tensor, priors: Tensor) -> Tensor:
        known = truth.isfinite().all(dim=1)  # [P]
        goal = encode_landmarks(torch.where(known[:, None], truth, 0.0), priors)
        error = F.smooth_l1_loss(points, goal, reduction="none").sum(dim=1)
        return torch.where(known, error, 0.0).sum() / known.sum().clamp(min=1)

    def _classes(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of all positives and of the hardest negatives of each picture, summed.

        A picture without faces counts as if it had one positive: seven of its negatives teach what is no face.
        """
        negative = labels == NEGATIVE
        as_negative = torch.where(negative, F.softplus(logits[..., 1] - logits[..., 0]), -1.0)  # -log p(background)
        as_positive = F.softplus(logits[..., 0] - logits[..., 1])  # -log p(face)
        positives = (labels == POSITIVE).sum(dim=1)  # [B]
        wanted = self.negatives_per_positive * positives.clamp(min=1)
        wanted = torch.minimum(wanted, negative.sum(dim=1))
        hardest = as_negative.topk(int(wanted.max()), dim=1).values  # [B, K]
        mined = torch.arange(hardest.shape[1], device=hardest.device) < wanted[:, None]
        return as_positive[labels == POSITIVE].sum() + torch.where(mined, hardest, 0.0).sum()
