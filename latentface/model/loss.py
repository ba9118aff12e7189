"""RetinaFace's multi-task loss: face or not, box, five landmarks (Deng et al. 2020, eq. 1).

Classification by cross-entropy with seven hard negatives for every positive (online hard example mining), boxes and
landmarks by smooth L1 on encoded offsets, weighted 1 : 2 : 1 as in the PyTorch implementations in public use (the
paper weighs them 1 : 0.25 : 0.1), each divided by its number of positives. One departure: a picture without faces
contributes seven negatives; there it contributes none.

Each part has later alternatives: priors matched by ATSS; scores that learn the IoU of their box instead of mined
negatives (quality focal loss); boxes by an IoU-type loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from latentface.errors import LatentFaceError
from latentface.model.anchors import (
    IGNORED,
    NEGATIVE,
    POSITIVE,
    batched_iou,
    decode_boxes,
    encode_boxes,
    encode_landmarks,
    match,
    match_adaptively,
)
from latentface.model.config import BOX_LOSSES, CLASS_LOSSES, MATCHINGS


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


def alone(values: Tensor) -> Tensor:
    """What a batch that lies in one process adds up to."""
    return values


@dataclass(frozen=True)
class MultiTaskLoss:
    """`loss(predictions, targets, priors)` -> a dict with `total` and its terms, each a scalar tensor.

    Of a batch that is spread over several processes each computes its own part: `add_up` sums the numbers of positives
    over all of them, and the parts sum up to the loss of the whole batch. A part may hold no picture.
    """

    threshold: float = 0.35
    negatives_per_positive: int = 7
    weights: tuple[float, ...] = (1.0, 2.0, 1.0)  # of classes, boxes and landmarks
    matching: str = "iou"
    box_loss: str = "smooth_l1"
    class_loss: str = "mining"
    add_up: Callable[[Tensor], Tensor] = alone

    def __post_init__(self) -> None:
        for name, allowed in (("matching", MATCHINGS), ("box_loss", BOX_LOSSES), ("class_loss", CLASS_LOSSES)):
            if getattr(self, name) not in allowed:
                raise LatentFaceError(f"{name} {getattr(self, name)!r} is none of {', '.join(allowed)}")

    def __call__(
        self, predictions: dict[str, Tensor], targets: Targets, priors: Tensor, levels: Sequence[int] = ()
    ) -> dict[str, Tensor]:
        """`levels`: how many priors each level has, for ATSS."""
        logits, offsets, points = (predictions[name].float() for name in ("scores", "boxes", "landmarks"))
        labels, face = self._match(priors, targets, levels)
        positive = labels == POSITIVE
        positives = self.add_up(positive.sum()).clamp(min=1)
        picture, prior = positive.nonzero(as_tuple=True)  # [P] each: only positives are encoded
        chosen = face[picture, prior]
        truth = targets.boxes[picture, chosen]
        boxes = self._boxes(offsets[picture, prior], truth, priors[prior]) / positives
        landmarks = self._landmarks(points[picture, prior], targets.landmarks[picture, chosen], priors[prior])
        if self.class_loss == "mining":
            classes = self._classes(logits, labels) / positives
        else:
            quality = torch.zeros_like(logits[..., 0])
            with torch.no_grad():
                quality[picture, prior] = paired_iou(decode_boxes(offsets[picture, prior], priors[prior]), truth)
            classes = quality_focal(logits[..., 1] - logits[..., 0], quality)[labels != IGNORED].sum() / positives
        terms = (classes, boxes, landmarks)
        total = torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
        return {"total": total, "classes": classes, "boxes": boxes, "landmarks": landmarks}

    def _match(self, priors: Tensor, targets: Targets, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
        faces = (targets.boxes, targets.valid, targets.ignore)
        if self.matching == "atss":
            if not levels:
                raise LatentFaceError("matching by atss has to know how many priors each level has")
            return match_adaptively(priors, *faces, levels)
        return match(priors, *faces, threshold=self.threshold)

    def _boxes(self, offsets: Tensor, truth: Tensor, priors: Tensor) -> Tensor:
        """Summed over positives [P]: smooth L1 of the offsets, or an IoU-type loss of the boxes."""
        if self.box_loss == "smooth_l1":
            return F.smooth_l1_loss(offsets, encode_boxes(truth, priors), reduction="sum")
        from torchvision import ops  # here, as it takes a second that the original loss can do without

        loss = {
            "giou": ops.generalized_box_iou_loss,
            "diou": ops.distance_box_iou_loss,
            "ciou": ops.complete_box_iou_loss,
        }[self.box_loss]
        return loss(decode_boxes(offsets, priors), truth, reduction="sum")

    def _landmarks(self, points: Tensor, truth: Tensor, priors: Tensor) -> Tensor:
        known = truth.isfinite().all(dim=1)  # [P]
        goal = encode_landmarks(torch.where(known[:, None], truth, 0.0), priors)
        error = F.smooth_l1_loss(points, goal, reduction="none").sum(dim=1)
        return torch.where(known, error, 0.0).sum() / self.add_up(known.sum()).clamp(min=1)

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
        most = int(wanted.max()) if len(wanted) else 0
        hardest = as_negative.topk(most, dim=1).values  # [B, K]
        mined = torch.arange(hardest.shape[1], device=hardest.device) < wanted[:, None]
        return as_positive[labels == POSITIVE].sum() + torch.where(mined, hardest, 0.0).sum()


def quality_focal(odds: Tensor, goal: Tensor) -> Tensor:
    """Quality focal loss (Li et al. 2020, eq. 6, beta 2) of log-odds against probabilities, element by element."""
    distance = (goal - torch.sigmoid(odds)).square()
    return distance * F.binary_cross_entropy_with_logits(odds, goal, reduction="none")


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of each box [N, 4] with its partner."""
    return batched_iou(first[:, None], second[:, None])[:, 0, 0]
