"""JPEG AI latents from the reference software's base-operating-point (BOP) networks, rebuilt in torch.

The weights are not part of this package: they are read from a checkout of the JPEG AI reference software. Its entropy
coder is not rebuilt. Where the real codec rounds around a predicted mean, this one rounds around the mean of every
channel of the picture, so its latents are *approximate* (`Latent.exact` is False); the networks themselves are not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from latentface.codecs.base import (
    RATES,
    RGB_TO_YCBCR,
    ZERO_ORDER,
    Latent,
    check_latent,
    check_rgb,
    crop_padding,
    entropy_bits,
    pad_to_stride,
    ycbcr_to_rgb,
)
from latentface.codecs.state_dict import fill, read_state
from latentface.errors import LatentFaceError
from latentface.machine import full_float32

ORIGIN = "the JPEG AI reference software's base operating point"
LUMA, CHROMA = 160, 96  # channels of the two parts of a latent, luma first
BETAS = ("0.002", "0.012", "0.075", "0.5")  # the trade-off each model was trained for; the index is the model index
MODEL_OF_RATE = {12: 0, 25: 1, 50: 2, 75: 2, 100: 3}
GAIN_OFFSET_OF_RATE = {12: 0, 25: 0, 50: -184, 75: 0, 100: 0}
LOG_GAIN_PER_OFFSET = 0.001565


class GatedActivation(nn.Module):
    """x * (1 + conv2(conv(relu6(x)))): a 3x3 convolution in groups, then a 1x1."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, x, self.conv2(self.conv(functional.relu6(x))))


class ResidualReLU(nn.Module):
    """x + relu(conv1(x))."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.relu(self.conv1(x))


def _halve(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)


def _double(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


class LumaAnalysis(nn.Module):
    """YUV [B, 3, H, W] -> luma latent [B, 160, H / 16, W / 16]; reads Y only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = _halve(1, 128), GatedActivation(128, groups=4)
        self.conv2, self.act2 = _halve(128, 128), GatedActivation(128, groups=4)
        self.conv3, self.act3 = _halve(128, 128), GatedActivation(128, groups=4)
        self.conv4 = _halve(128, LUMA)
        self.conv5 = nn.Conv2d(LUMA, LUMA, 1, bias=False)

    def forward(self, yuv: Tensor) -> Tensor:
        x = self.act1(self.conv1(yuv[:, :1]))
        x = self.act2(self.conv2(x))
        x = self.act3(self.conv3(x))
        return self.conv5(self.conv4(x))


class ChromaAnalysis(nn.Module):
    """YUV [B, 3, H, W] -> chroma latent [B, 96, H / 16, W / 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = _halve(12, 128), GatedActivation(128, groups=4)
        self.conv2, self.act2 = _halve(128, 128), GatedActivation(128, groups=4)
        self.conv3, self.act3 = _halve(128, 128), GatedActivation(128, groups=4)
        self.conv5 = nn.Conv2d(128, CHROMA, 1, bias=False)

    def forward(self, yuv: Tensor) -> Tensor:
        x = functional.pixel_unshuffle(yuv, 2)  # [B, 12, H / 2, W / 2]: four of Y, four of U, four of V
        x = self.act1(self.conv1(x))
        x = self.act2(self.conv2(x))
        x = self.act3(self.conv3(x))
        return self.conv5(x)


class LumaSynthesis(nn.Module):
    """Latent [B, 256, h, w] -> Y [B, 1, 16 h, 16 w]; reads the luma channels only."""

    def __init__(self) -> None:
        super().__init__()
        entry = nn.Sequential(ResidualReLU(LUMA))
        self.first_stage = nn.Sequential(entry, _double(LUMA, 64), GatedActivation(64, groups=4))
        self.conv2_t, self.iact2 = _double(64, 64), GatedActivation(64, groups=4)
        self.conv3, self.iact3 = nn.Conv2d(64, 96, 3, padding=1), GatedActivation(96, groups=6)
        self.conv4 = nn.Conv2d(96, 16, 1, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.first_stage(latent[:, :LUMA])
        x = self.iact2(self.conv2_t(x))
        x = self.iact3(self.conv3(x))
        return functional.pixel_shuffle(self.conv4(x), 4)


class ChromaSynthesis(nn.Module):
    """Latent [B, 256, h, w] -> U and V [B, 2, 16 h, 16 w]."""

    def __init__(self) -> None:
        super().__init__()
        entry = nn.Conv2d(LUMA + CHROMA, 48, 3, padding=1)
        self.first_stage = nn.Sequential(OrderedDict(conv1=entry))
        self.conv2_t, self.iact2 = _double(48 + CHROMA, 64), GatedActivation(64, groups=4)
        self.conv3, self.iact3 = nn.Conv2d(64, 128, 3, padding=1), GatedActivation(128, groups=8)
        self.conv4 = nn.Conv2d(128, 128, 1, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        x = torch.cat([self.first_stage(latent), latent[:, LUMA:]], dim=1)
        x = self.iact2(self.conv2_t(x))
        x = self.iact3(self.conv3(x))
        return functional.pixel_shuffle(self.conv4(x), 8)


class Pair(nn.Module):
    """The luma and the chroma network of one model side by side, joined on channels."""

    def __init__(self, luma: nn.Module, chroma: nn.Module):
        super().__init__()
        self.luma, self.chroma = luma, chroma

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.luma(x), self.chroma(x)], dim=1)


class JpegAiCodec:
    """The four BOP models of JPEG AI: latents are [256, h, w], 160 luma and 96 chroma channels at stride 16.

    `weights` is the folder with `encoder_{Y,UV}_{beta}.pth` (and `decoder_...` for decoding), or any folder above
    it, such as a checkout of the reference software. Networks are read when first needed, and kept. In bfloat16 they
    are twice as fast on processors that have it; their output is about 2 % of a channel's standard deviation off.
    Every rate has its model and quantisation step, the reference software's defaults: 12, 25, 50 and 75 (one model,
    two steps), 100. The bits per pixel of a picture are whatever comes of them; see `Latent.bpp`.
    """

    name = "jpegai"
    stride = multiple = 16
    rates = RATES

    def __init__(self, weights: str | Path, device: str | torch.device = "cpu", precision: str = "float32"):
        self.folder = find_weights(Path(weights))
        self.device = torch.device(device)
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        self._networks: dict[tuple[str, int], Pair] = {}

    def encode(self, rgb: np.ndarray, rate: int) -> Latent:
        """See `Codec.encode`."""
        return self.encode_rates(rgb, [rate])[0]

    def encode_rates(self, rgb: np.ndarray, rates: Sequence[int], pixels: int | None = None) -> list[Latent]:
        """See `Codec.encode_rates`: every model that the rates need runs once."""
        return self.encode_batch([rgb], [rates], [pixels])[0]

    def encode_batch(
        self, pictures: Sequence[np.ndarray], rates: Sequence[Sequence[int]], pixels: Sequence[int | None]
    ) -> list[list[Latent]]:
        """See `BatchCodec.encode_batch`: every model sees the pictures that need it together."""
        for rate in chain.from_iterable(rates):
            _check_rate(rate)
        models = [{MODEL_OF_RATE[rate] for rate in wanted} for wanted in rates]
        analysed: dict[tuple[int, int], np.ndarray] = {}  # by picture and model
        for model in set().union(*models):
            numbers = [number for number, needed in enumerate(models) if model in needed]
            parts = self._analyse([pictures[number] for number in numbers], model)
            analysed |= {(number, model): part for number, part in zip(numbers, parts, strict=True)}
        return [
            [_quantise(rgb, analysed[number, MODEL_OF_RATE[rate]], rate, counted) for rate in wanted]
            for number, (rgb, wanted, counted) in enumerate(zip(pictures, rates, pixels, strict=True))
        ]

    def encode_unquantised(self, rgb: np.ndarray, model_index: int) -> Latent:
        """The output of one model before rounding: step None, rate 0 and bpp not a number, as it was never coded."""
        return _latent(rgb, self._analyse([rgb], model_index)[0], 0, model_index, None, math.nan)

    def usual_model(self, rate: int) -> int | None:
        """See `Codec.usual_model`."""
        return MODEL_OF_RATE.get(rate)

    def decode(self, latent: Latent) -> np.ndarray:
        """See `Codec.decode`. Raises LatentFaceError for another codec's latent or an unknown model index."""
        check_latent(latent, self.name, LUMA + CHROMA)
        if latent.model_index is None:
            raise LatentFaceError("the latent does not say which model made it; set its model_index (0 to 3) to decode")
        network = self._network("decoder", latent.model_index)
        with torch.inference_mode(), full_float32(self.device):
            y = torch.from_numpy(np.ascontiguousarray(latent.array, np.float32))[None].to(self.device, self.dtype)
            planes = network(y)[0].float().cpu().contiguous().numpy() * 128  # [3, H, W], Y around 127.5
        planes[0] += 127.5
        return crop_padding(ycbcr_to_rgb(planes), latent)

    def _analyse(self, pictures: Sequence[np.ndarray], model_index: int) -> np.ndarray:
        """Pictures of one size -> float32 [B, 256, h, w]."""
        network = self._network("encoder", model_index)
        with torch.inference_mode(), full_float32(self.device):
            yuv = _yuv(pictures, self.device).to(self.dtype)
            return network(yuv).float().cpu().contiguous().numpy()

    def _network(self, part: str, model_index: int) -> Pair:
        """`part` is "encoder" or "decoder"."""
        if model_index not in range(len(BETAS)):
            raise LatentFaceError(f"jpegai has no model {model_index}; its models are 0 to {len(BETAS) - 1}")
        key = (part, model_index)
        if key not in self._networks:
            luma, chroma = (
                (LumaAnalysis(), ChromaAnalysis()) if part == "encoder" else (LumaSynthesis(), ChromaSynthesis())
            )
            load_network(luma, self.folder / f"{part}_Y_{BETAS[model_index]}.pth")
            load_network(chroma, self.folder / f"{part}_UV_{BETAS[model_index]}.pth")
            network = Pair(luma, chroma).eval().to(self.device, self.dtype)
            self._networks[key] = network.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        return self._networks[key]


def find_weights(folder: Path) -> Path:
    """The folder with the networks: `folder` itself or one below it, rather one named after the BOP.

    Raises LatentFaceError where there is none.
    """
    landmark = f"encoder_Y_{BETAS[0]}.pth"
    if (folder / landmark).is_file():
        return folder
    found = sorted(path.parent for path in folder.rglob(landmark))
    if not found:
        what = f"no {landmark} in this folder or below" if folder.is_dir() else "no such folder"
        raise LatentFaceError(
            f"{folder}: {what}; --codec_weights wants the folder with encoder_{{Y,UV}}_{{{','.join(BETAS)}}}.pth "
            "of the JPEG AI reference software, or its checkout"
        )
    return min(found, key=lambda path: ("bop" not in path.name.lower(), "bop" not in str(path).lower()))


def load_network(network: nn.Module, path: Path) -> None:
    """Fills a network from one file of the reference software: a state dict with an integer `epoch` beside it."""
    state = read_state(path, ORIGIN)
    state.pop("epoch", None)
    fill(network, state, path, ORIGIN)


def _check_rate(rate: int) -> None:
    if rate not in MODEL_OF_RATE:
        raise LatentFaceError(f"jpegai has no rate {rate}; its rates are {', '.join(map(str, MODEL_OF_RATE))}")


def _yuv(pictures: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """uint8 [H, W, 3] each -> float32 [B, 3, H, W]: padded, every plane (v - 127.5) / 128, chroma about zero."""
    for rgb in pictures:
        check_rgb(rgb)
        if rgb.shape != pictures[0].shape:
            sizes = f"{list(pictures[0].shape[:2])} and {list(rgb.shape[:2])}"
            raise LatentFaceError(f"pictures of one batch differ in height and width: {sizes}; batch them by size")
    padded = np.stack([pad_to_stride(rgb, JpegAiCodec.stride)[0] for rgb in pictures])
    pixels = torch.from_numpy(padded).to(device)  # as bytes, a quarter of the floats
    matrix = torch.from_numpy(RGB_TO_YCBCR).to(device, torch.float32)
    planes = (matrix @ pixels.flatten(1, 2).transpose(1, 2).float()).unflatten(2, pixels.shape[1:3])
    planes[:, 0] -= 127.5
    return planes / 128


def _quantise(rgb: np.ndarray, y: np.ndarray, rate: int, pixels: int | None) -> Latent:
    """One picture's y [256, h, w], rounded around the mean of every channel with the rate's gain."""
    gain = np.float32(math.exp(GAIN_OFFSET_OF_RATE[rate] * LOG_GAIN_PER_OFFSET))
    mean = y.mean(axis=(1, 2), keepdims=True)
    symbols = np.rint((y - mean) * gain)
    bpp = entropy_bits(symbols.reshape(len(y), -1)) / (pixels or rgb.shape[0] * rgb.shape[1])
    return _latent(rgb, mean + symbols / gain, rate, MODEL_OF_RATE[rate], float(1 / gain), bpp)


def _latent(rgb: np.ndarray, array: np.ndarray, rate: int, model_index: int, step: float | None, bpp: float) -> Latent:
    height, width = rgb.shape[:2]
    return Latent(
        array=array,
        codec=JpegAiCodec.name,
        rate=int(rate),
        model_index=model_index,
        step=step,
        bpp=bpp,
        source_width=width,
        source_height=height,
        exact=False,
        pad_right=-width % JpegAiCodec.stride,
        pad_bottom=-height % JpegAiCodec.stride,
        stride=JpegAiCodec.stride,
        bpp_from=ZERO_ORDER,
    )
