"""Detectors of pictures that latents are taught by.

A teacher looks at the uncompressed picture of a latent and tells what its neck makes of it, level by level, and what
it predicts for every prior. Two kinds of file are read: a checkpoint of the picture-input twin, and the RetinaFace
with a MobileNetV1-0.25 backbone of biubug6/Pytorch_Retinaface (MIT), a plain state dict in public use.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from latentface.errors import LatentFaceError
from latentface.model.bridge import convolution
from latentface.model.checkpoint import load_checkpoint, load_plain
from latentface.model.config import PRIOR_SIZES
from latentface.model.neck import ContextHead, FeaturePyramid
from latentface.model.retinaface import LANDMARKS, NECK_CHANNELS, RetinaFace, gather

SLOPE = 0.1
MEAN_BGR = (104.0, 117.0, 123.0)


class MobileNetRetinaFace(nn.Module):
    """RetinaFace on a quarter-width MobileNetV1 (Howard et al. 2017): 0.44 M parameters, 1.0 GMAC at 640x640."""

    prior_sizes = PRIOR_SIZES
    neck_channels = 64
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)
        self.body = nn.ModuleList(
            [
                nn.Sequential(
                    convolution(3, 8, 3, 2, SLOPE), _separable(8, 16), _separable(16, 32, 2), _separable(32, 32),
                    _separable(32, 64, 2), _separable(64, 64),
                ),
                nn.Sequential(_separable(64, 128, 2), *(_separable(128, 128) for _ in range(5))),
                nn.Sequential(_separable(128, 256, 2), _separable(256, 256)),
            ]
        )  # fmt: skip
        self.neck = FeaturePyramid([64, 128, 256], 64)
        self.context = nn.ModuleList(ContextHead(64) for _ in PRIOR_SIZES)
        self.class_heads, self.box_heads, self.landmark_heads = (
            nn.ModuleList(nn.Conv2d(64, 2 * values, 1) for _ in PRIOR_SIZES) for values in (2, 4, 2 * LANDMARKS)
        )

    def neck_levels(self, pictures: Tensor) -> list[Tensor]:
        """RGB [B, 3, H, W] 0..255 -> what the neck makes of it at strides 8, 16, 32: [B, 64, H / s, W / s]."""
        x = pictures.flip(1) - self.mean
        features = []
        for stage in self.body:
            x = stage(x)
            features.append(x)
        return self.neck(features)

    def predictions(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Neck levels -> scores, boxes and landmarks as `RetinaFace.forward` gives them."""
        levels = [context(level) for context, level in zip(self.context, levels, strict=True)]
        return {
            "scores": gather(levels, self.class_heads, 2),
            "boxes": gather(levels, self.box_heads, 4),
            "landmarks": gather(levels, self.landmark_heads, 2 * LANDMARKS),
        }


class TwinTeacher(nn.Module):
    """The picture-input twin as a teacher."""

    def __init__(self, twin: RetinaFace) -> None:
        super().__init__()
        self.twin = twin
        self.prior_sizes, self.neck_channels = twin.config.prior_sizes, NECK_CHANNELS[twin.config.backbone]

    def neck_levels(self, pictures: Tensor) -> list[Tensor]:
        """As `MobileNetRetinaFace.neck_levels`."""
        return self.twin.neck_levels(pictures, torch.zeros(len(pictures), dtype=torch.int64, device=pictures.device))

    def predictions(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """As `MobileNetRetinaFace.predictions`."""
        return self.twin.predictions(levels)


Teacher = MobileNetRetinaFace | TwinTeacher


def load_teacher(path: str | Path) -> Teacher:
    """Raises LatentFaceError for a file that is neither of the two kinds."""
    content = load_plain(path)
    if any(str(name).removeprefix("module.").startswith("body.stage1.") for name in content):
        return _load_mobilenet(content, path)
    checkpoint = load_checkpoint(path)
    if checkpoint.config.input != "picture":
        raise LatentFaceError(f"{path}: a detector of latents; a teacher looks at pictures")
    return TwinTeacher(checkpoint.build()).eval().requires_grad_(False)


def _load_mobilenet(content: dict[str, Tensor], path: str | Path) -> MobileNetRetinaFace:
    model = MobileNetRetinaFace()
    state = {_renamed(str(name).removeprefix("module.")): tensor for name, tensor in content.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LatentFaceError(f"{path}: not the weights of RetinaFace with MobileNetV1-0.25") from error
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


_RENAMED = (  # of the published state dict -> of our modules
    (r"^body\.stage(\d)\.", lambda m: f"body.{int(m[1]) - 1}."),
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


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then pointwise 1x1, each with batch norm and leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(SLOPE, inplace=True),
    )
