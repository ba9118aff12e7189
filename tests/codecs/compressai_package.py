"""Run by a Python that has the `compressai` package: writes checkpoints with random weights and what it makes of them.

python compressai_package.py FOLDER -> for each codec and quality `<codec>-<quality>.pth.tar` and `.expected`.
"""

import sys
from pathlib import Path

import torch
from compressai.zoo import image_models

CODECS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean")
QUALITIES = (1, 8)  # 192 and 320 channels
PICTURE = (128, 192)  # height, width


@torch.no_grad()
def randomise(model, picture):
    """Weights away from their start, symbols of a few steps: at the start all of them are zero."""
    for name, parameter in model.named_parameters():
        if name.endswith(("beta", "gamma", "bias")) or "entropy_bottleneck" in name:
            parameter.add_(torch.randn_like(parameter) * (0.02 if name.endswith("gamma") else 0.3))
    quantiles = model.entropy_bottleneck.quantiles
    quantiles.copy_((3 * torch.randn_like(quantiles)).sort(dim=2).values)
    model.g_a[6].weight.mul_(4 / model.g_a(picture).std())
    if hasattr(model, "h_a"):
        y = model.g_a(picture)
        model.h_a[4].weight.mul_(3 / model.h_a(y).std())
        z_hat, _ = model.entropy_bottleneck(model.h_a(y))
        model.h_s[4].weight.mul_(2 / model.h_s(z_hat).std())


@torch.no_grad()
def main(folder):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rgb = torch.randint(0, 256, (1, 3, *[side // 8 for side in PICTURE])).float()
    rgb = torch.nn.functional.interpolate(rgb, PICTURE, mode="bicubic").clamp(0, 255).round().byte()
    picture = rgb.float() / 255
    for codec in CODECS:
        for quality in QUALITIES:
            model = image_models[codec](quality=quality, pretrained=False).eval()
            randomise(model, picture)
            y = model.g_a(picture)
            if codec == "bmshj2018-factorized":
                y_hat, _ = model.entropy_bottleneck(y)
            else:
                z_hat, _ = model.entropy_bottleneck(model.h_a(y.abs() if codec == "bmshj2018-hyperprior" else y))
                hints = model.h_s(z_hat)
                means = hints.chunk(2, 1)[1] if codec == "mbt2018-mean" else None
                y_hat = model.gaussian_conditional.quantize(y, "dequantize", means)
            out = model(picture)
            bits = sum(float(-p.double().log2().sum()) for p in out["likelihoods"].values())
            expected = {"rgb": rgb[0], "y": y, "y_hat": y_hat, "x_hat": out["x_hat"], "bits": bits}
            torch.save(model.state_dict(), folder / f"{codec}-{quality}.pth.tar")
            torch.save(expected, folder / f"{codec}-{quality}.expected")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
