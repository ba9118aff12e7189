"""RetinaFace on latents.

    latents [B, C, h, w], rates [B]
      -> normalisation          per model index or rate
      -> projection             where wanted: a linear map of the channels for each of those
      -> bridge                 [B, E, h * 16 / 4, w * 16 / 4] for a codec of stride 16 and a ResNet
      -> pruned backbone        strides 8, 16, 32
      -> feature pyramid, a context head per level
      -> 1x1 heads              two priors per position: face or not, box, five landmarks

The picture-input twin differs in the first two lines only: RGB 0..255, then the ResNet's own stem and layer1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from latentface.codecs.base import RATES
from latentface.errors import LatentFaceError
from latentface.model.anchors import priors
from latentface.model.backbone import (
    LightBackbone,
    LightStem,
    MobileNetBackbone,
    MobileNetStem,
    PictureStem,
    PrunedResNet,
    build_resnet,
)
from latentface.model.bridge import BRIDGES
from latentface.model.config import ModelConfig
from latentface.model.neck import ContextHead, FeaturePyramid
from latentface.model.normalisation import LatentNormalisation, LatentStatistics, PictureNormalisation, RowProjection

NECK_CHANNELS = {"resnet18": 128, "resnet34": 128, "resnet50": 256, "light": 64, "mobilenet": 64}
LEVEL_STRIDES = (8, 16, 32)
LANDMARKS = 5


class RetinaFace(nn.Module):
    """The detector. Whoever runs it hands it raw latents and the rate."""

    projection: RowProjection
    normalisation: LatentNormalisation | PictureNormalisation

    def __init__(
        self, config: ModelConfig, statistics: LatentStatistics | None = None, backbone_weights: str = "none"
    ) -> None:
        """`backbone_weights`: "imagenet", "none" or a file; checkpoints are loaded over "none"."""
        super().__init__()
        self.config = config
        self.backbone: PrunedResNet | LightBackbone | MobileNetBackbone
        stem: Callable[[], nn.Module]
        if config.backbone == "light":
            self.backbone, stem = LightBackbone(), LightStem
        elif config.backbone == "mobilenet":
            self.backbone, stem = MobileNetBackbone(), MobileNetStem
        else:
            resnet = build_resnet(config.backbone, backbone_weights)
            self.backbone, stem = PrunedResNet(resnet, config.enters), partial(PictureStem, resnet)
        self.entry: nn.Module
        if config.input == "picture":
            self.normalisation, self.entry = PictureNormalisation(), stem()
        else:
            statistics = statistics or LatentStatistics.neutral(config.channels, RATES)
            if len(set(statistics.channels)) > 1 and not config.projection:
                raise LatentFaceError("latents of different numbers of channels need a projection of each codec model")
            self.normalisation = LatentNormalisation(statistics)
            self.entry = self._bridge()
            if config.projection:
                self.projection = RowProjection(len(statistics.mean), config.channels, config.projection)
        for level_stride, sizes in zip(LEVEL_STRIDES, config.prior_sizes, strict=True):
            self.register_buffer(f"prior_sizes_{level_stride}", torch.tensor(sizes))  # a state dict tells them too
        channels = NECK_CHANNELS[config.backbone]
        self.neck = FeaturePyramid(self.backbone.out_channels, channels)
        self.context = nn.ModuleList(ContextHead(channels) for _ in LEVEL_STRIDES)
        self.class_heads = self._heads(channels, 2)
        self.box_heads = self._heads(channels, 4)
        self.landmark_heads = self._heads(channels, 2 * LANDMARKS)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _bridge(self) -> nn.Module:
        scale, rest = divmod(self.config.stride, self.backbone.entry_stride)
        if rest or scale.bit_count() != 1:
            raise LatentFaceError(
                f"a latent of stride {self.config.stride} cannot feed {self.config.backbone}: "
                f"the stride has to be {self.backbone.entry_stride} times a power of two"
            )
        channels = self.config.projection or self.config.channels
        return BRIDGES[self.config.bridge](channels, self.backbone.entry_channels, scale, self.backbone.entry_slope)

    def _heads(self, channels: int, values: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Conv2d(channels, len(sizes) * values, 1) for sizes in self.config.prior_sizes)

    def forward(
        self, latents: Tensor, rates: Tensor, model_indices: Tensor | None = None, *, neck: bool = False
    ) -> dict[str, Any]:
        """latents [B, c, h, w], rates [B], model indices [B] (-1: unknown) ->

        `scores` [B, A, 2] logits (background, face), `boxes` [B, A, 4] and `landmarks` [B, A, 10] offsets relative to
        the priors; with `neck` also `neck`, a list of its levels. The twin takes RGB [B, 3, H, W] 0..255 in place of
        latents.
        """
        levels = self.neck_levels(latents, rates, model_indices)
        outputs = self.predictions(levels)
        return {**outputs, "neck": levels} if neck else outputs

    def neck_levels(self, latents: Tensor, rates: Tensor, model_indices: Tensor | None = None) -> list[Tensor]:
        """What the neck makes of latents at strides 8, 16, 32: [B, N, H / s, W / s] each."""
        x = self.normalisation(latents, rates, model_indices)
        if self.config.projection:
            x = self.projection(x, self.normalisation.rows(rates, model_indices))
        return self.neck(self.backbone(self.entry(x)))

    def predictions(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Neck levels -> what `forward` gives."""
        levels = [context(level) for context, level in zip(self.context, levels, strict=True)]
        return {
            "scores": gather(levels, self.class_heads, 2),
            "boxes": gather(levels, self.box_heads, 4),
            "landmarks": gather(levels, self.landmark_heads, 2 * LANDMARKS),
        }

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        """(height, width) in picture pixels of an input with so many rows and columns."""
        return rows * self.config.input_stride, columns * self.config.input_stride

    def priors(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """[A, 4] `cx cy width height`, picture pixels, for an input with so many rows and columns."""
        return priors(self._level_shapes(rows, columns), LEVEL_STRIDES, self.config.prior_sizes, device)

    def priors_per_level(self, rows: int, columns: int) -> list[int]:
        """How many of `priors` belong to each level."""
        shapes = self._level_shapes(rows, columns)
        return [h * w * len(sizes) for (h, w), sizes in zip(shapes, self.config.prior_sizes, strict=True)]

    def _level_shapes(self, rows: int, columns: int) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the neck's levels."""
        height, width = self.picture_size(rows, columns)
        return tuple((-(-height // stride), -(-width // stride)) for stride in LEVEL_STRIDES)


def gather(levels: list[Tensor], heads: nn.ModuleList, values: int) -> Tensor:
    """[B, sizes * values, h, w] of each level -> [B, A, values], in the order of the priors."""
    maps = [head(level).permute(0, 2, 3, 1) for head, level in zip(heads, levels, strict=True)]
    return torch.cat([m.reshape(m.shape[0], -1, values) for m in maps], dim=1)
