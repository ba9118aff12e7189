"""RetinaFace with MobileNetV1-0.25 as biubug6/Pytorch_Retinaface publishes it (MIT) -> a checkpoint of ours.

The same network under other names: blue, green, red minus (104, 117, 123) becomes our red, green, blue by turning the
first convolution's filters; mean and deviation are buffers of the normalisation.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from latentface.model.config import ModelConfig

MEAN_RGB = (123.0, 117.0, 104.0)
FIRST = "body.stage1.0.0.weight"  # what such a file is known by
CONFIG = ModelConfig("mobilenet", input="picture", channels=3, stride=1)

_RENAMED: tuple[tuple[str, Callable[[re.Match], str]], ...] = (
    (r"^body\.stage1\.([012])\.", lambda m: f"entry.layers.{m[1]}."),
    (r"^body\.stage1\.(\d)\.", lambda m: f"backbone.stages.0.{int(m[1]) - 3}."),
    (r"^body\.stage([23])\.", lambda m: f"backbone.stages.{int(m[1]) - 1}."),
    (r"^fpn\.output(\d)\.", lambda m: f"neck.lateral.{int(m[1]) - 1}."),
    (r"^fpn\.merge(\d)\.", lambda m: f"neck.merge.{int(m[1]) - 1}."),
    (r"^ssh(\d)\.", lambda m: f"context.{int(m[1]) - 1}."),
    (r"conv3X3\.", lambda m: "view3."),
    (r"conv5X5_1\.", lambda m: "shared."),
    (r"conv5X5_2\.", lambda m: "view5."),
    (r"conv7X7_2\.", lambda m: "view7.0."),
    (r"conv7x7_3\.", lambda m: "view7.1."),
    (r"^ClassHead\.(\d)\.conv1x1", lambda m: f"class_heads.{m[1]}"),
    (r"^BboxHead\.(\d)\.conv1x1", lambda m: f"box_heads.{m[1]}"),
    (r"^LandmarkHead\.(\d)\.conv1x1", lambda m: f"landmark_heads.{m[1]}"),
)


def translate(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict without `module.` prefixes -> state dict of `RetinaFace(CONFIG)`; unknown names stay as they are."""
    state = {_renamed(name): tensor for name, tensor in published.items()}
    first = _renamed(FIRST)
    state[first] = state[first].flip(-3)  # blue, green, red -> red, green, blue
    state["normalisation.mean"] = torch.tensor(MEAN_RGB).view(1, 3, 1, 1)
    state["normalisation.deviation"] = torch.ones(1, 3, 1, 1)
    for stride, sizes in zip((8, 16, 32), CONFIG.prior_sizes, strict=True):
        state[f"prior_sizes_{stride}"] = torch.tensor(sizes)
    return state


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
