"""The networks of three learned codecs, under the names that CompressAI's checkpoints give their weights.

    picture [B, 3, H, W] 0..1 -> g_a -> y [B, M, H / 16, W / 16] -> rounded: y_hat -> g_s -> picture
                                        y -> h_a -> z [B, N, H / 64, W / 64] -> rounded: z_hat -> h_s -> what y is like

Ballé, Minnen, Singh, Hwang, Johnston: Variational image compression with a scale hyperprior, 2018 (factorized and
hyperprior); Minnen, Ballé, Toderici: Joint autoregressive and hierarchical priors, 2018 (its model without context).
Every model gives y_hat and the bits that its entropy model says y_hat and z_hat take.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

PEDESTAL = 2.0**-36  # under the squares that hold GDN's parameters: keeps gradients alive at zero
SMALLEST_BETA = 1e-6
SMALLEST_SCALE = 0.11  # of a Gaussian, in steps of the quantiser
SMALLEST_LIKELIHOOD = 1e-9  # no symbol takes more than 30 bits
FILTERS = (1, 3, 3, 3, 3, 1)  # widths of the layers of the learned cumulative distribution


class Gdn(nn.Module):
    """Generalised divisive normalisation: x / sqrt(beta + gamma x²) over the channels; inverse: times that root.

    What is stored are square roots, a pedestal above the values.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels, channels))
        self.inverse = inverse

    def forward(self, x: Tensor) -> Tensor:
        beta, gamma = _squared(self.beta, SMALLEST_BETA), _squared(self.gamma, 0.0)
        norm = functional.conv2d(x * x, gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


def _squared(root: Tensor, smallest: float) -> Tensor:
    return root.clamp(min=math.sqrt(smallest + PEDESTAL)).square() - PEDESTAL


class FactorizedDensity(nn.Module):
    """A distribution of each channel's own (Ballé et al. 2018, appendix 6.1): [B, C, h, w].

    Its cumulative is a small network without falling parts: layers `g(softplus(matrix) x + bias)` with
    `g(x) = x + tanh(factor) tanh(x)`, a sigmoid at the end. Values are rounded around the channel's median.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = list(pairwise(FILTERS))
        self.matrices = nn.ParameterList(torch.zeros(channels, b, a) for a, b in widths)
        self.biases = nn.ParameterList(torch.zeros(channels, b, 1) for _, b in widths)
        self.factors = nn.ParameterList(torch.zeros(channels, b, 1) for _, b in widths[:-1])
        self.quantiles = nn.Parameter(torch.zeros(channels, 1, 3))  # low, median, high

    def quantise(self, x: Tensor) -> Tensor:
        median = self.quantiles[:, 0, 1, None, None]
        return torch.round(x - median) + median

    def bits(self, quantised: Tensor) -> Tensor:
        """Of each picture: [B]."""
        batch, channels = quantised.shape[:2]
        values = quantised.transpose(0, 1).reshape(channels, 1, -1)
        low, high = self._logits(values - 0.5), self._logits(values + 0.5)
        side = torch.where(low + high > 0, -1.0, 1.0)  # the tail where a difference of sigmoids keeps its digits
        likelihood = (torch.sigmoid(side * high) - torch.sigmoid(side * low)).abs()
        return _bits(likelihood.reshape(channels, batch, -1).transpose(0, 1))

    def _logits(self, x: Tensor) -> Tensor:
        for number, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.baddbmm(bias, functional.softplus(matrix), x)
            if number < len(self.factors):
                x = x + torch.tanh(self.factors[number]) * torch.tanh(x)
        return x


def gaussian_bits(deviations: Tensor, scales: Tensor) -> Tensor:
    """Bits [B] of whole steps `deviations` away from the mean of a Gaussian of `scales`: [B, C, h, w] each."""
    scales, away = scales.clamp(min=SMALLEST_SCALE), deviations.abs()
    return _bits(_normal_cumulative((0.5 - away) / scales) - _normal_cumulative((-0.5 - away) / scales))


def _normal_cumulative(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x * 2**-0.5)


def _bits(likelihood: Tensor) -> Tensor:
    return -likelihood.clamp(min=SMALLEST_LIKELIHOOD).log2().flatten(1).double().sum(dim=1)


def _halve(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _double(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


def _same(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class CompressionModel(nn.Module, ABC):
    """`n`: channels inside, `m`: of the latent."""

    multiple: int  # sides of pictures are multiples of this

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.channels = m
        self.g_a = nn.Sequential(_halve(3, n), Gdn(n), _halve(n, n), Gdn(n), _halve(n, n), Gdn(n), _halve(n, m))
        self.g_s = nn.Sequential(
            _double(m, n), Gdn(n, True), _double(n, n), Gdn(n, True), _double(n, n), Gdn(n, True), _double(n, 3)
        )

    @abstractmethod
    def code(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] 0..1 -> y_hat [B, M, H / 16, W / 16] and its bits [B]."""

    def decode(self, latents: Tensor) -> Tensor:
        """y_hat -> pictures; values may lie a little outside of 0..1."""
        return self.g_s(latents)


class FactorizedPrior(CompressionModel):
    """bmshj2018-factorized: y has a distribution of its own for each channel."""

    multiple = 16

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        self.entropy_bottleneck = FactorizedDensity(m)

    def code(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.entropy_bottleneck.quantise(self.g_a(pictures))
        return latents, self.entropy_bottleneck.bits(latents)


class ScaleHyperprior(CompressionModel):
    """bmshj2018-hyperprior: y is Gaussian around zero, z says how wide."""

    multiple = 64

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        self.entropy_bottleneck = FactorizedDensity(n)
        self.h_a = nn.Sequential(_same(m, n), nn.ReLU(), _halve(n, n), nn.ReLU(), _halve(n, n))
        self.h_s = nn.Sequential(_double(n, n), nn.ReLU(), _double(n, n), nn.ReLU(), _same(n, m), nn.ReLU())

    def code(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        y = self.g_a(pictures)
        z = self.entropy_bottleneck.quantise(self.h_a(y.abs()))
        latents = torch.round(y)
        return latents, gaussian_bits(latents, self.h_s(z)) + self.entropy_bottleneck.bits(z)


class MeanScaleHyperprior(CompressionModel):
    """mbt2018-mean: z says the mean of y too, around which it is rounded."""

    multiple = 64

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        wide = m * 3 // 2
        self.entropy_bottleneck = FactorizedDensity(n)
        self.h_a = nn.Sequential(_same(m, n), nn.LeakyReLU(), _halve(n, n), nn.LeakyReLU(), _halve(n, n))
        self.h_s = nn.Sequential(_double(n, m), nn.LeakyReLU(), _double(m, wide), nn.LeakyReLU(), _same(wide, 2 * m))

    def code(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        y = self.g_a(pictures)
        z = self.entropy_bottleneck.quantise(self.h_a(y))
        scales, means = self.h_s(z).chunk(2, dim=1)
        symbols = torch.round(y - means)
        return symbols + means, gaussian_bits(symbols, scales) + self.entropy_bottleneck.bits(z)
