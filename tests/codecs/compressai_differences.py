"""Ours beside the `compressai` package on random weights that it made.

python tests/codecs/compressai_differences.py PYTHON_WITH_COMPRESSAI   prints what `records/codecs.json` keeps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from latentface.codecs.compressai import MODELS, CompressAiCodec

REFERENCE = Path(__file__).with_name("compressai_package.py")


def differences(python: str, folder: Path) -> list[dict[str, Any]]:
    """For each codec and quality: the largest difference over the largest value, of what should be the same."""
    subprocess.run([python, str(REFERENCE), str(folder)], check=True, capture_output=True)
    rows = []
    for name in MODELS:
        codec = CompressAiCodec(name, folder)
        rows += [_row(codec, quality, folder) for quality in codec.rates]
    return rows


@torch.inference_mode()
def _row(codec: CompressAiCodec, quality: int, folder: Path) -> dict[str, Any]:
    expected = torch.load(folder / f"{codec.name}-{quality}.expected", weights_only=True)
    rgb = expected["rgb"].permute(1, 2, 0).numpy()
    latent = codec.encode(rgb, quality)
    network = codec._network(quality)
    decoded = network.decode(expected["y_hat"])
    off = torch.from_numpy(latent.array) - expected["y_hat"][0]
    return {
        "codec": codec.name,
        "quality": quality,
        "channels": len(latent.array),
        "y": _relative(network.g_a(expected["rgb"][None].float() / 255), expected["y"]),
        "y_hat": float(off[off.abs() < 0.5].abs().max() / expected["y_hat"].abs().max()),
        "symbols": off.numel(),
        "symbols_rounded_otherwise": int((off.abs() >= 0.5).sum()),
        "decoded": _relative(decoded, expected["x_hat"]),
        "bits": abs(latent.bpp * rgb.shape[0] * rgb.shape[1] / expected["bits"] - 1),
        "bpp": latent.bpp,
    }


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(differences(sys.argv[1], Path(place)), indent=1))
