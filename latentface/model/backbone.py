"""Backbones without their first stages: features at strides 8, 16 and 32 from what a bridge makes.

The ResNets start at layer2 (stride 4 in, He et al. 2016), or later where the bridge makes up for it; stem and layer1
are kept only by the picture-input twin.
"""

from __future__ import annotations

import urllib.error
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentface.errors import LatentFaceError
from latentface.model.bridge import LEAK, ResidualBlock, convolution
from latentface.torch_file import read_torch_file

if TYPE_CHECKING:
    import torchvision


class PrunedResNet(nn.Module):
    """layer2, layer3, layer4 of a torchvision ResNet. [B, entry_channels, H/s, W/s] -> strides 8, 16, 32.

    `enters`: "layer2" (s = 4), "layer2 without stride" (s = 8), or "layer3" (s = 8: the input is the stride-8 level).
    """

    entry_slope = 0.0

    def __init__(self, resnet: torchvision.models.ResNet, enters: str = "layer2") -> None:
        super().__init__()
        self.entry_stride = 4 if enters == "layer2" else 8
        self.layer2 = nn.Identity() if enters == "layer3" else resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        first = resnet.layer3 if enters == "layer3" else resnet.layer2
        self.entry_channels: int = first[0].conv1.in_channels  # layer2: 64, resnet50: 256
        if enters == "layer2 without stride":
            _remove_stride(resnet.layer2[0])
        self.out_channels = [_width(layer) for layer in (resnet.layer2, resnet.layer3, resnet.layer4)]

    def forward(self, x: Tensor) -> list[Tensor]:
        stride8 = self.layer2(x)
        stride16 = self.layer3(stride8)
        return [stride8, stride16, self.layer4(stride16)]


def _width(layer: nn.Sequential) -> int:
    """Channels that a layer of a ResNet gives."""
    return [module for module in layer[-1].modules() if isinstance(module, nn.Conv2d)][-1].out_channels


def _remove_stride(block: nn.Module) -> None:
    """Of a ResNet's block that halves height and width; its weights stay as they are."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


class LightBackbone(nn.Module):
    """A small residual network from stride 8 on, for CPUs. No ImageNet weights."""

    entry_stride = 8  # as if it entered at a layer2 that has no stride
    entry_channels = 64
    entry_slope = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = [64, 96, 160]
        self.stage8 = ResidualBlock(64, 64)
        self.stage16 = nn.Sequential(ResidualBlock(64, 96, stride=2), ResidualBlock(96, 96))
        self.stage32 = nn.Sequential(ResidualBlock(96, 160, stride=2), ResidualBlock(160, 160))

    def forward(self, x: Tensor) -> list[Tensor]:
        stride8 = self.stage8(x)
        stride16 = self.stage16(stride8)
        return [stride8, stride16, self.stage32(stride16)]


class MobileNetBackbone(nn.Module):
    """MobileNetV1 of a quarter of the width (Howard et al. 2017) from stride 4 on: [B, 32, H/4, W/4] -> strides 8, 16,
    32. 0.4 GMAC for a 640x640 picture."""

    entry_stride = 4
    entry_channels = 32
    entry_slope = LEAK

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = [64, 128, 256]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(separable(32, 32), separable(32, 64, 2), separable(64, 64)),
                nn.Sequential(separable(64, 128, 2), *(separable(128, 128) for _ in range(5))),
                nn.Sequential(separable(128, 256, 2), separable(256, 256)),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then pointwise 1x1, each with batch norm and leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.LeakyReLU(LEAK, inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(LEAK, inplace=True),
    )


class MobileNetStem(nn.Module):
    """The entry of MobileNet's picture-input twin: [B, 3, H, W] -> [B, 32, H / 4, W / 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(3, 8, kernel=3, stride=2, slope=LEAK), separable(8, 16), separable(16, 32, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PictureStem(nn.Module):
    """conv1, max-pooling and layer1 of a ResNet: the entry of the picture-input twin. [B, 3, H, W] -> stride 4."""

    def __init__(self, resnet: torchvision.models.ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1 = resnet.layer1

    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))


class LightStem(nn.Module):
    """The entry of the light picture-input twin: [B, 3, H, W] -> [B, 64, H / 8, W / 8]. 0.8 GMAC at 640x640."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(3, 16, kernel=3, stride=2),
            convolution(16, 32, kernel=3, stride=2),
            convolution(32, 64, kernel=3, stride=2),
            ResidualBlock(64, 64),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def build_resnet(name: str, weights: str) -> torchvision.models.ResNet:
    """A torchvision ResNet. `weights`: "imagenet" (downloaded once by torchvision), "none", or a state dict's path.

    Raises LatentFaceError where the weights cannot be had: random ones are never taken in silence.
    """
    import torchvision  # here, as it takes a second and 160 MB that a light model can do without

    resnet = getattr(torchvision.models, name)(weights=None)
    if weights != "none":
        state = _imagenet_state(name) if weights == "imagenet" else _state_from_file(name, weights)
        misfits = sorted(_essential(resnet.state_dict()) ^ _essential(state))  # resnet34's names contain resnet18's
        if misfits:
            problem = "does not belong to it" if misfits[0] in state else "is missing"
            raise LatentFaceError(f"{weights}: not the weights of a {name} ({misfits[0]} {problem})")
        try:
            resnet.load_state_dict({key: state[key] for key in state if not key.startswith("fc.")}, strict=False)
        except RuntimeError as error:
            raise LatentFaceError(f"{weights}: these are not weights of {name}") from error
    return resnet


def _essential(names: Iterable[str]) -> set[str]:
    """Without the classifier and the counters of batch norm, which files from before PyTorch 0.4.1 lack."""
    return {name for name in names if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}


def _imagenet_state(name: str) -> dict[str, Any]:
    import torchvision

    entry = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        file_name = entry.url.rsplit("/", 1)[-1]
        raise LatentFaceError(
            f"ImageNet weights of {name} could not be downloaded ({error}): give --backbone_weights PATH/{file_name}, "
            "or --backbone_weights none to start from random weights"
        ) from error


def _state_from_file(name: str, path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise LatentFaceError(
            f"--backbone_weights {path}: no such file (give a {name} state dict, 'imagenet' or 'none')"
        )
    try:
        state = read_torch_file(path)
    except LatentFaceError as error:
        raise LatentFaceError(f"--backbone_weights {error}") from error
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
        raise LatentFaceError(f"--backbone_weights {path}: not a state dict of plain tensors")
    return state
