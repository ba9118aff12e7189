"""What a model is made of, in plain values: known without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentface.codecs.base import UNKNOWN_INDEX
from latentface.errors import LatentFaceError

RESNETS = ("resnet18", "resnet34", "resnet50")
BACKBONES = (*RESNETS, "light", "mobilenet")
BRIDGE_ENTERS = {  # where the backbone starts behind each bridge, see `PrunedResNet`
    "bilinear": "layer2",
    "shuffle": "layer2",
    "deep": "layer2",
    "residual": "layer2",
    "refined": "layer2",
    "stride8": "layer2 without stride",
    "layer3": "layer3",
}
LINEAR_BRIDGES = ("residual", "refined")  # at first: what they add begins at nothing
PRECISIONS = ("float32", "bfloat16", "float16")  # that torch runs a network in; an exported one has its own
# How the loss is made, see `loss.py`; the first of each is the original's.
MATCHINGS = ("iou", "atss")
BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
CLASS_LOSSES = ("mining", "quality")
PRIOR_SIZES = ((16, 32), (64, 128), (256, 512))
LARGEST_STRIDE = 128  # picture pixels; learned codecs have 16, their hyperpriors 64
MOST_CHANNELS = 1 << 16
LARGEST_PRIOR = 1 << 16  # picture pixels


def fits(backbone: str, bridge: str) -> bool:
    """Whether they go together: two bridges replace layers of a ResNet, and the linear ones would cost a ResNet more
    than the layers that they stand for."""
    if bridge in LINEAR_BRIDGES:
        return backbone == "mobilenet"
    return backbone in RESNETS or BRIDGE_ENTERS[bridge] == "layer2"


def _is_side(value: object) -> bool:
    """Of a prior, picture pixels."""
    return type(value) in (int, float) and 0 < value <= LARGEST_PRIOR  # type: ignore[operator]


@dataclass(frozen=True)
class ChannelCounts:
    """How many channels a model's latents have: by model index where that is known, else by rate."""

    by_rate: dict[int, int]
    by_index: dict[int, int]
    most: int  # and of a latent of neither

    def of(self, rate: int, model_index: int) -> int:
        """`model_index` -1: unknown."""
        return self.by_index.get(model_index, self.by_rate.get(rate, self.most))

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {"by_rate": list(self.by_rate.items()), "by_index": list(self.by_index.items()), "most": self.most}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> ChannelCounts:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError for others."""
        return cls(dict(values["by_rate"]), dict(values["by_index"]), int(values["most"]))


@dataclass(frozen=True)
class ModelConfig:
    """What a RetinaFace is made of; kept in every checkpoint."""

    backbone: str = "resnet50"
    bridge: str = "bilinear"
    input: str = "latent"  # or "picture": the twin
    channels: int = 256  # of the latent, of the widest where rates differ
    stride: int = 16  # picture pixels per latent cell
    prior_sizes: tuple[tuple[int, ...], ...] = PRIOR_SIZES
    projection: int = 0  # channels after a linear map of each codec model's own, before the bridge; 0: none

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("backbone", self.backbone, BACKBONES),
            ("bridge", self.bridge, tuple(BRIDGE_ENTERS)),
            ("input", self.input, ("latent", "picture")),
        ):
            if value not in allowed:
                raise LatentFaceError(f"{name} {value!r} is none of {', '.join(allowed)}")
        for name, number, least, most in (
            ("channels", self.channels, 1, MOST_CHANNELS),
            ("stride", self.stride, 1, LARGEST_STRIDE),
            ("projection", self.projection, 0, MOST_CHANNELS if self.input == "latent" else 0),
        ):
            if type(number) is not int or not least <= number <= most:
                raise LatentFaceError(f"{name} {number!r}: a whole number from {least} to {most}, of {self.input}s")
        sizes = [size for level in self.prior_sizes for size in level]
        if len(self.prior_sizes) != len(PRIOR_SIZES) or not all(self.prior_sizes) or not all(map(_is_side, sizes)):
            raise LatentFaceError(f"prior sizes {self.prior_sizes}: sides in pixels for {len(PRIOR_SIZES)} levels")
        if self.input == "latent" and not fits(self.backbone, self.bridge):
            able = [name for name in BACKBONES if fits(name, self.bridge)]
            raise LatentFaceError(f"the {self.bridge} bridge needs {' or '.join(able)}, not {self.backbone}")

    @classmethod
    def of(cls, values: dict[str, Any]) -> ModelConfig:
        """From plain values, as files keep them. Raises KeyError or TypeError for others."""
        return cls(**{**values, "prior_sizes": tuple(map(tuple, values["prior_sizes"]))})

    @property
    def input_channels(self) -> int:
        """Of what `forward` takes: the latent's, or a picture's three."""
        return 3 if self.input == "picture" else self.channels

    @property
    def input_stride(self) -> int:
        """Picture pixels per cell of what `forward` takes."""
        return 1 if self.input == "picture" else self.stride

    @property
    def enters(self) -> str:
        """Where the backbone starts: see `PrunedResNet`."""
        return "layer2" if self.input == "picture" else BRIDGE_ENTERS[self.bridge]


def check_channels(counts: ChannelCounts, channels: int, rates: Any, model_indices: Any) -> None:
    """Raises LatentFaceError unless a batch of latents [B, `channels`, h, w] is what the model takes.

    `rates` and `model_indices` [B] are arrays or tensors, the latter -1 where unknown, or None.
    """
    indices = [UNKNOWN_INDEX] * len(rates) if model_indices is None else model_indices.tolist()
    for rate, index in zip(rates.tolist(), indices, strict=True):
        wanted = counts.of(rate, index)
        if channels != wanted:
            raise LatentFaceError(f"a latent of rate {rate} has {channels} channels, the model takes {wanted}")
