"""Latents of CompressAI's pretrained codecs, from their checkpoints and without that package.

`--codec_weights DIR` holds a file for each quality, named as the package's downloads are:
`<codec>-<quality>.pth.tar`, also `<codec>-prior-<quality>-<anything>.pth`. A *rate* of these codecs is the quality, 1
to 8 (the manifest has the true bits per pixel), and so is the model index: each quality has networks of its own. The
numbers of channels are read off the file; the lower qualities have 192 in a latent, the higher ones 320.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentface.codecs.base import ENTROPY_MODEL, Latent, check_latent, check_rgb, crop_padding, pad_to_stride
from latentface.codecs.compressai_networks import (
    CompressionModel,
    FactorizedPrior,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from latentface.codecs.state_dict import fill, read_state
from latentface.errors import LatentFaceError
from latentface.machine import full_float32

MODELS: dict[str, type[CompressionModel]] = {
    "bmshj2018-factorized": FactorizedPrior,
    "bmshj2018-hyperprior": ScaleHyperprior,
    "mbt2018-mean": MeanScaleHyperprior,
}
ORIGIN = "CompressAI's pretrained models"
# What a checkpoint has beside weights: constants, and tables that only its entropy coder needs.
_CONSTANTS = re.compile(r"_reparam\.|^gaussian_conditional\.|^entropy_bottleneck\.(_|target$|likelihood_lower_bound\.)")
_DENSITY = re.compile(r"^entropy_bottleneck\._?(matri|bias|factor)[a-z]*\.?_?(\d)$")  # three spellings, by version
_PLURAL = {"matri": "matrices", "bias": "biases", "factor": "factors"}


class CompressAiCodec:
    """One of three architectures: latents are [M, h, w] at stride 16, exactly what the codec's decoder would read.

    Sides are padded to multiples of 64 (factorized: 16) on the right and at the bottom by the last row and column, as
    the hyperprior needs them; the latent covers the padding, and the padding is recorded. Networks are read when
    first needed, and kept. They run in float32 only: less would move roundings. `Latent.bpp` is what the codec's own
    entropy model says; an entropy coder comes within about one percent of it.
    """

    stride = 16

    def __init__(self, name: str, weights: str | Path, device: str | torch.device = "cpu") -> None:
        self.name = name
        self.model = MODELS[name]
        self.multiple = self.model.multiple
        self.files = find_checkpoints(Path(weights), name)
        self.rates = tuple(self.files)
        self.device = torch.device(device)
        self._networks: dict[int, CompressionModel] = {}

    def encode(self, rgb: np.ndarray, rate: int) -> Latent:
        """See `Codec.encode`. About a second for 640x640 and 192 channels on one thread."""
        return self.encode_rates(rgb, [rate])[0]

    def encode_rates(self, rgb: np.ndarray, rates: Sequence[int], pixels: int | None = None) -> list[Latent]:
        """See `Codec.encode_rates`; nothing is shared, as every quality has its own networks."""
        for rate in rates:
            self._check_rate(rate)
        check_rgb(rgb)
        height, width = rgb.shape[:2]
        padded, pad_right, pad_bottom = pad_to_stride(rgb, self.multiple)
        picture = torch.from_numpy(padded).to(self.device).permute(2, 0, 1)[None].float() / 255
        latents = []
        for rate in rates:
            with torch.inference_mode(), full_float32(self.device):
                coded, bits = self._network(rate).code(picture)
            latents.append(
                Latent(
                    array=coded[0].cpu().contiguous().numpy(),
                    codec=self.name,
                    rate=int(rate),
                    model_index=int(rate),
                    step=1.0,
                    bpp=float(bits) / (pixels or height * width),
                    source_width=width,
                    source_height=height,
                    exact=True,
                    pad_right=pad_right,
                    pad_bottom=pad_bottom,
                    stride=self.stride,
                    bpp_from=ENTROPY_MODEL,
                )
            )
        return latents

    def usual_model(self, rate: int) -> int | None:
        """See `Codec.usual_model`: the quality itself."""
        return rate if rate in self.files else None

    def decode(self, latent: Latent) -> np.ndarray:
        """See `Codec.decode`. Raises LatentFaceError for another codec's latent or a quality that has no file."""
        quality = latent.rate if latent.model_index is None else latent.model_index
        self._check_rate(quality)
        network = self._network(quality)
        check_latent(latent, self.name, network.channels)
        with torch.inference_mode(), full_float32(self.device):
            y = torch.from_numpy(np.ascontiguousarray(latent.array, np.float32))[None].to(self.device)
            planes = network.decode(y)[0].clamp(0, 1).mul(255).round().byte().cpu().numpy()
        return crop_padding(planes.transpose(1, 2, 0), latent)

    def _check_rate(self, rate: int) -> None:
        if rate not in self.files:
            there = ", ".join(map(str, self.files))
            raise LatentFaceError(f"{self.name} has no rate {rate}: its rates are the qualities with a file, {there}")

    def _network(self, quality: int) -> CompressionModel:
        if quality not in self._networks:
            # Channels last would be a quarter faster and round one value in 20,000 otherwise than the package does.
            self._networks[quality] = load_model(self.files[quality], self.name).to(self.device)
        return self._networks[quality]


def find_checkpoints(folder: Path, name: str) -> dict[int, Path]:
    """Quality -> file, in ascending order. Raises LatentFaceError where there is none, or two for one quality."""
    pattern = re.compile(rf"{re.escape(name)}-(?:prior-)?(\d+)(?:-[^.]*)?\.(?:pth|pt|pth\.tar)")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise LatentFaceError(f"{folder}: {other.name} and {path.name} are of one quality; keep one of them")
    if not found:
        what = f"no {name}-<quality>.pth.tar in this folder" if folder.is_dir() else "no such folder"
        raise LatentFaceError(f"{folder}: {what}; --codec_weights wants the folder of {ORIGIN}, named as downloaded")
    return dict(sorted(found.items()))


def load_model(path: Path, name: str) -> CompressionModel:
    """The network of one checkpoint, ready to run. Raises LatentFaceError for a file that is none of `name`."""
    state = read_state(path, ORIGIN)
    state = _weights(state.get("state_dict", state))
    found, n, m = _kind(state, path)
    if found != name:
        raise LatentFaceError(f"{path}: holds a {found}, not a {name}; give it its own name or --codec {found}")
    network = MODELS[found](n, m)
    fill(network, state, path, ORIGIN)
    return network.eval()


def _weights(state: dict[str, Any]) -> dict[str, Any]:
    """Weights alone, the learned density's under the newest of its names."""
    renamed = {}
    for key, value in state.items():
        key = str(key).removeprefix("module.")
        if match := _DENSITY.match(key):
            key = f"entropy_bottleneck.{_PLURAL[match[1]]}.{match[2]}"
        if not _CONSTANTS.search(key):
            renamed[key] = value
    return renamed


def _kind(state: dict[str, Any], path: Path) -> tuple[str, int, int]:
    """Architecture and the channels N and M, told by the names and shapes of the weights."""
    try:
        m, n = state["g_a.6.weight"].shape[:2]
        if "h_a.0.weight" not in state:
            return "bmshj2018-factorized", n, m
        outputs = state["h_s.4.weight"].shape[0]
    except (KeyError, AttributeError, ValueError) as error:
        raise LatentFaceError(f"{path}: no weights of {', '.join(MODELS)}") from error
    return ("mbt2018-mean" if outputs == 2 * m else "bmshj2018-hyperprior"), n, m
