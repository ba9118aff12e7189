"""Neck and context heads of RetinaFace: a feature pyramid (Lin et al. 2017) and SSH modules (Najibi et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentface.model.bridge import convolution


def _slope(channels: int) -> float:
    """RetinaFace uses leaky ReLU where the neck is narrow, plain ReLU elsewhere."""
    return 0.1 if channels <= 64 else 0.0


class FeaturePyramid(nn.Module):
    """Features at strides 8, 16, 32 -> the same, each `channels` wide and knowing what the coarser levels saw."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        slope = _slope(channels)
        self.lateral = nn.ModuleList(convolution(width, channels, kernel=1, slope=slope) for width in in_channels)
        self.merge = nn.ModuleList(convolution(channels, channels, kernel=3, slope=slope) for _ in in_channels[:-1])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for level in reversed(range(len(self.merge))):
            above = F.interpolate(levels[level + 1], size=levels[level].shape[-2:], mode="nearest")
            levels[level] = self.merge[level](levels[level] + above)
        return levels


class ContextHead(nn.Module):
    """SSH: fields of view of 3x3, 5x5 and 7x7 side by side, the two larger ones sharing their first convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter, slope = channels // 4, _slope(channels)
        self.view3 = _linear(channels, channels // 2)
        self.shared = convolution(channels, quarter, kernel=3, slope=slope)
        self.view5 = _linear(quarter, quarter)
        self.view7 = nn.Sequential(convolution(quarter, quarter, kernel=3, slope=slope), _linear(quarter, quarter))

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared(x)
        return F.relu(torch.cat([self.view3(x), self.view5(shared), self.view7(shared)], dim=1))


def _linear(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution and batch norm without an activation."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels))
