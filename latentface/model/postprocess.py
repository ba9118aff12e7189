"""Predictions -> faces: decode, keep the best, suppress overlaps. Priors are computed once per size, elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from latentface.model.anchors import decode_boxes, decode_landmarks


@dataclass(frozen=True)
class Faces:
    """What was found in one picture, best first."""

    boxes: np.ndarray  # float32 [N, 4] x1 y1 x2 y2, picture pixels
    scores: np.ndarray  # float32 [N] 0..1
    landmarks: np.ndarray  # float32 [N, 5, 2] left eye, right eye, nose, left and right mouth corner, picture pixels

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Thresholds:
    """Defaults of RetinaFace's WIDER FACE test; IoU here is without the extra pixel that its NMS adds to each side."""

    confidence: float = 0.02
    nms: float = 0.4  # IoU above which the weaker of two boxes goes
    before_nms: int = 5000
    keep: int = 750


def postprocess(
    predictions: dict[str, Tensor], priors: Tensor, *, width: int, height: int, thresholds: Thresholds
) -> list[Faces]:
    """Raw output of the model for a batch -> Faces of each picture, boxes clipped to `width` x `height`."""
    scores = predictions["scores"].float().softmax(dim=-1)[..., 1]  # [B, A]
    return [
        _picture(score, offsets.float(), points.float(), priors, width, height, thresholds)
        for score, offsets, points in zip(scores, predictions["boxes"], predictions["landmarks"], strict=True)
    ]


def _picture(
    scores: Tensor, offsets: Tensor, points: Tensor, priors: Tensor, width: int, height: int, thresholds: Thresholds
) -> Faces:
    candidates = (scores >= thresholds.confidence).nonzero().squeeze(1)
    order = scores[candidates].sort(descending=True, stable=True).indices[: thresholds.before_nms]
    candidates = candidates[order]
    boxes = decode_boxes(offsets[candidates], priors[candidates])
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    boxes = boxes.clamp(min=0).minimum(limit)
    seen = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # a box that lay outside has no area left
    boxes, candidates = boxes[seen], candidates[seen]
    kept = nms(boxes, scores[candidates], thresholds.nms)[: thresholds.keep]
    landmarks = decode_landmarks(points[candidates[kept]], priors[candidates[kept]])
    return Faces(
        boxes[kept].cpu().numpy(), scores[candidates[kept]].cpu().numpy(), landmarks.unflatten(-1, (5, 2)).cpu().numpy()
    )
