"""Small checkpoints with random weights, under the names of CompressAI's files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from latentface.codecs.compressai import MODELS
from latentface.codecs.compressai_networks import CompressionModel

CONSTANTS = {  # beside the weights in the package's files
    "g_a.1.beta_reparam.pedestal": torch.tensor([2.0**-36]),
    "g_a.1.gamma_reparam.lower_bound.bound": torch.tensor([2.0**-18]),
    "entropy_bottleneck._offset": torch.zeros(0, dtype=torch.int32),
    "entropy_bottleneck._quantized_cdf": torch.zeros(0, dtype=torch.int32),
    "entropy_bottleneck._cdf_length": torch.zeros(0, dtype=torch.int32),
    "entropy_bottleneck.target": torch.zeros(3),
    "entropy_bottleneck.likelihood_lower_bound.bound": torch.tensor([1e-9]),
}
GAUSSIAN = {
    "gaussian_conditional.scale_table": torch.zeros(0),
    "gaussian_conditional.lower_bound_scale.bound": torch.tensor([0.11]),
}


@torch.no_grad()
def random_model(name: str, n: int, m: int, seed: int = 0) -> CompressionModel:
    """Weights away from their start; symbols of a few steps."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    model = MODELS[name](n, m).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("weight"):
            fan = parameter[0].numel() if key.startswith("g_a") else parameter.shape[0] * parameter[0, 0].numel()
            parameter.copy_(noise(parameter) / fan**0.5)
        elif key.endswith("gamma"):
            parameter.copy_(noise(parameter).abs() * 0.1)
        else:
            parameter.add_(noise(parameter) * 0.3)
    quantiles = model.entropy_bottleneck.quantiles
    quantiles.copy_((3 * noise(quantiles)).sort(dim=2).values)
    model.g_a[6].weight *= 40
    return model


def write_checkpoint(folder: Path, name: str, quality: int, n: int, m: int) -> Path:
    """`<name>-<quality>-0123abcd.pth.tar` with weights and constants."""
    path = folder / f"{name}-{quality}-0123abcd.pth.tar"
    gaussian = GAUSSIAN if name != "bmshj2018-factorized" else {}
    torch.save({**random_model(name, n, m, quality).state_dict(), **CONSTANTS, **gaussian}, path)
    return path
