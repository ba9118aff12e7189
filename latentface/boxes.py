"""Box algebra. A box is `x1 y1 x2 y2`, float, picture pixels. Arrays of boxes are NumPy [N, 4].

Numbers of the WIDER FACE protocol use another convention (a box covers `x2 - x1 + 1` pixels):
see `evaluation/wider.py`.
"""

from __future__ import annotations

import numpy as np


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
