"""Box algebra. A box is `x1 y1 x2 y2`, float, picture pixels. Arrays of boxes are [N, 4]: NumPy where files are
read and numbers made, torch (`batched_iou`) where models train.

Numbers of the WIDER FACE protocol use another convention (a box covers `x2 - x1 + 1` pixels):
see `evaluation/wider.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """`x y width height` [N, 4] -> `x1 y1 x2 y2` [N, 4]."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], axis=1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """`x1 y1 x2 y2` [N, 4] -> `x y width height` [N, 4]."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2]], axis=1)


def clip(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """The part of each box that lies inside a `width` x `height` picture; a box outside it gets no area."""
    limit = np.array([width, height, width, height], dtype=boxes.dtype)
    return np.clip(boxes, 0, limit)


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: [N, 4], [M, 4] -> [N, M]; 0 where either box has no area."""
    # One axis at a time: [N, M] arrays in place of [N, M, 2] pairs take half as long.
    left, top, right, bottom = first.T[:, :, None]
    width = np.minimum(right, second[:, 2]) - np.maximum(left, second[:, 0])
    height = np.minimum(bottom, second[:, 3]) - np.maximum(top, second[:, 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)  # [N, M]
    area_first = (right - left) * (bottom - top)
    area_second = (second[:, 2] - second[:, 0]) * (second[:, 3] - second[:, 1])
    union = area_first + area_second - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


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
