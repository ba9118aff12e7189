"""A batch of latents -> faces: what validation and detection share."""

from __future__ import annotations

import torch
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.model.config import check_channels
from latentface.model.faces import Faces, Thresholds
from latentface.model.postprocess import postprocess
from latentface.model.retinaface import RetinaFace


@torch.inference_mode()
def predict(
    model: RetinaFace,
    latents: Tensor,
    rates: Tensor,
    model_indices: Tensor | None = None,
    *,
    thresholds: Thresholds | None = None,
    precision: torch.dtype = torch.float32,
) -> list[Faces]:
    """latents [B, c, h, w], rates [B], model indices [B] (-1: unknown) -> Faces of each.

    `thresholds` default to those of the WIDER FACE protocol; `precision` other than float32 runs the network in
    autocast.
    """
    device = next(model.parameters()).device
    check_channels(model.normalisation.channel_counts, latents.shape[1], rates, model_indices)
    latents = latents.to(device, memory_format=torch.channels_last, non_blocking=True)
    indices = None if model_indices is None else model_indices.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        output = model(latents, rates.to(device, non_blocking=True), indices)
    rows, columns = latents.shape[-2:]
    height, width = model.picture_size(rows, columns)
    priors = model.priors(rows, columns, device)
    return postprocess(output, priors, width=width, height=height, thresholds=thresholds or Thresholds())


def pick_device(name: str) -> torch.device:
    """`cuda:0`, `cpu`; empty: a GPU where there is one. Raises LatentFaceError for a device that is not there."""
    if not name:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LatentFaceError(f"--device {name}: not available here; leave it out or give cpu") from error
    return device
