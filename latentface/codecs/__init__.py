"""Picture <-> latent. Codecs know nothing of faces."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentface.errors import LatentFaceError

if TYPE_CHECKING:
    import torch

    from latentface.codecs.base import Codec

COMPRESSAI = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean")
CODECS = ("dct", "jpegai", "jpegai-vm", *COMPRESSAI, "pixels")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class VmSettings:
    """Where the JPEG AI reference software is and how it is run, for `jpegai-vm`."""

    folder: str | None = None  # its checkout
    python: str | None = None  # of the environment that it was installed into
    profile: str = "auto"  # of its cfg/profiles; auto: the base operating point's
    timeout: float = 600.0  # seconds for each command


def open_codec(
    name: str,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    vm: VmSettings | None = None,
) -> Codec:
    """A codec by name; `weights` is the folder that a learned one reads its networks from, `device` where they run.

    `precision` is that of jpegai's networks; the others compute in float32. `vm` is for jpegai-vm.

    Raises LatentFaceError for an unknown name, and where the codec's weights are missing.
    """
    if precision != "float32" and name != "jpegai":
        raise LatentFaceError(f"--precision {precision} is for jpegai: codec {name} computes in float32; leave it out")
    if name == "dct":
        from latentface.codecs.dct import DctCodec

        return DctCodec()
    if name == "pixels":
        from latentface.codecs.pixels import PixelCodec

        return PixelCodec()
    if name == "jpegai":
        if weights is None:
            raise LatentFaceError(
                "codec jpegai needs --codec_weights DIR, the folder with encoder_Y_0.002.pth and its companions or a "
                "checkout of the JPEG AI reference software that contains it"
            )
        from latentface.codecs.jpegai import JpegAiCodec

        return JpegAiCodec(weights, device, precision)
    if name == "jpegai-vm":
        if str(device) != "cpu":
            raise LatentFaceError(f"--device {device}: jpegai-vm runs the software on the CPU; leave it out")
        from latentface.codecs.jpegai_vm import JpegAiVmCodec

        return JpegAiVmCodec(vm or VmSettings())
    if name in COMPRESSAI:
        if weights is None:
            raise LatentFaceError(
                f"codec {name} needs --codec_weights DIR, a folder with CompressAI's checkpoints, {name}-1.pth.tar "
                "and so on"
            )
        from latentface.codecs.compressai import CompressAiCodec

        return CompressAiCodec(name, weights, device)
    near = difflib.get_close_matches(name, CODECS, n=1)
    suggestion = f"did you mean {near[0]}?" if near else f"choose from {', '.join(CODECS)}"
    raise LatentFaceError(f"unknown codec {name!r}; {suggestion}")
