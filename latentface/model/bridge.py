"""The bridge: a latent becomes what a pruned backbone takes.

Every bridge has one signature: `Bridge(in_channels, out_channels, scale, slope)` maps [B, in, h, w] to
[B, out, h * scale, w * scale]. `scale` is a power of two: the codec's stride over the stride where the backbone starts.
`slope` is what the backbone is used to below zero: of the last activation, 0 for ReLU. `last_norm`, where a bridge has
it, is the batch norm before that activation: a bridge that shall see what another network sees is scaled there.
Costs are of a [256, 40, 40] latent.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

LEAK = 0.1  # slope of leaky ReLU below zero, here and in MobileNet


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, slope: float = 0.0) -> nn.Sequential:
    """Convolution, batch norm, (leaky) ReLU; same padding."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        activation(slope),
    )


def activation(slope: float) -> nn.Module:
    """ReLU, or a leaky one."""
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


class ResidualBlock(nn.Module):
    """ResNet's basic block (He et al. 2016, fig. 5), its parts named as in torchvision, whose import takes a second."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inside)) + self.downsample(x), inplace=True)


class BridgeModule(nn.Module):
    """The documented bridge: bilinear upsampling in steps of two, a 3x3 convolution after each.

    For a [256, 40, 40] latent:
        x2 -> 3x3 to 128 channels at 80x80   1.9 GMAC
        x2 -> 3x3 to 64 channels at 160x160  1.9 GMAC
        1x1 to what layer2 takes             0.4 GMAC (resnet50: 256 channels; resnet18 and 34 take the 64 as they are)
    Widths shrink as the picture grows: two convolutions of full width would cost 18.9 GMAC, three times what leaving
    out the stem and layer1 saves.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int, slope: float) -> None:
        super().__init__()
        steps = int(math.log2(scale))
        layers: list[nn.Module] = []
        width = in_channels
        for step in range(steps):
            narrower = max(64, 128 >> step)
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            layers.append(convolution(width, narrower, kernel=3))
            width = narrower
        if width != out_channels or not steps:
            layers.append(convolution(width, out_channels, kernel=1))
        layers[-1][-1] = activation(slope)  # type: ignore[index,operator]
        self.layers = nn.Sequential(*layers)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.layers[-1][1]  # type: ignore[index,return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ShuffleBridge(nn.Module):
    """1x1 convolution, then pixel-shuffle: every sub-cell position gets filters of its own. 0.4 to 1.7 GMAC."""

    def __init__(self, in_channels: int, out_channels: int, scale: int, slope: float) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_channels, out_channels * scale * scale, 1, bias=False)
        self.shuffle = nn.PixelShuffle(scale)
        self.finish = nn.Sequential(nn.BatchNorm2d(out_channels), activation(slope))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.finish[0]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.shuffle(self.expand(x)))


class DeepShuffleBridge(nn.Module):
    """A residual pair of 3x3 convolutions on the latent's own grid (1.9 GMAC), then pixel-shuffle.

    Convolutions before the upsampling: 16 times fewer positions than after it, and each sees 16 times the area.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int, slope: float) -> None:
        super().__init__()
        self.block = ResidualBlock(in_channels, in_channels)
        self.shuffle = ShuffleBridge(in_channels, out_channels, scale, slope)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.shuffle.last_norm

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.block(x))


class ResidualBridge(nn.Module):
    """A linear map from 3x3 cells to pixel-shuffled positions, activation; before it a residual pair of convolutions.

    The pair adds nothing at first. Without it the map is linear, so that it can be fitted by least squares to what
    another network computes at this place (`training/entry.py`): from there on all of it learns. 1.4 GMAC behind a
    projection to 128 channels.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int, slope: float) -> None:
        super().__init__()
        self.inner = convolution(in_channels, in_channels, kernel=3)
        self.outer = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]
        self.expand = nn.Conv2d(in_channels, out_channels * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.activation = activation(slope)

    def linear(self, x: Tensor) -> Tensor:
        """What comes before the activation."""
        return self.shuffle(self.expand(x + self.outer(self.inner(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class RefinedBridge(ResidualBridge):
    """`ResidualBridge` and, where the backbone starts, another residual pair of convolutions: 1.9 GMAC.

    It too adds nothing at first. It sees across the borders of cells, whose positions the map before it computes apart.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int, slope: float) -> None:
        super().__init__(in_channels, out_channels, scale, slope)
        self.fine_inner = convolution(out_channels, out_channels, kernel=3, slope=LEAK)
        self.fine_outer = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.fine_outer.weight)
        nn.init.zeros_(self.fine_outer.bias)  # type: ignore[arg-type]

    def linear(self, x: Tensor) -> Tensor:
        coarse = super().linear(x)
        return coarse + self.fine_outer(self.fine_inner(coarse))


BRIDGES: dict[str, type[nn.Module]] = {  # by the names of `ModelConfig`
    "bilinear": BridgeModule,
    "shuffle": ShuffleBridge,
    "deep": DeepShuffleBridge,
    "residual": ResidualBridge,
    "refined": RefinedBridge,
    "stride8": DeepShuffleBridge,  # to stride 8 only: layer2 runs without its own stride
    "layer3": DeepShuffleBridge,  # the same: what the bridge makes is the stride-8 level; layer2 goes
}
