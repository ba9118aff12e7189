"""Every setting of `latentface detect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latentface.codecs import CODECS, VmSettings, open_codec
from latentface.codecs.base import Codec, check_side
from latentface.codecs.preview import JPEG_AI
from latentface.data.cache import CACHE_GB, Cache
from latentface.errors import LatentFaceError
from latentface.inference.inputs import place_of
from latentface.model.config import PRECISIONS
from latentface.options import option

ROW_FORMATS = ("jsonl", "parquet")


@dataclass
class DetectConfig:
    """Finds faces in latents: prints a table, writes one JSON file and one picture per latent."""

    inputs: tuple[str, ...] = option(
        (),
        "latents (.npy), folders of them, packed splits, photographs with --codec; or URLs; @list.txt: a path a line",
        positional=True,
    )
    latent: tuple[str, ...] = option((), "the same as inputs")
    weight: str = option("", "checkpoint, e.g. weight_final.pth; empty: the detector that comes along")
    network: str = option("", "backbone that the checkpoint has to hold, e.g. resnet50; empty: whatever it holds")
    conf: float = option(0.5, "lowest confidence of a face, 0 to 1")
    nms: float = option(0.4, "IoU from which the weaker of two boxes goes")
    rate: int | None = option(
        None, "rate of the latents; without it from the name latent_<rate>.npy, else the only one the model knows"
    )
    image: str = option("", "photograph to draw over (one latent only)")
    codec: str = option("", "codec to encode photographs and to decode latents with", choices=("", *CODECS))
    codec_weights: str = option("", "folder of the codec's networks (jpegai and CompressAI's)")
    vm: str = option("", "checkout of the JPEG AI reference software, for --codec jpegai-vm")
    python: str = option("", "Python of the environment that this software was installed into")
    size: int = option(640, "side of the square that photographs are brought to before encoding")
    fit: str = option(
        "auto",
        "photographs: pad or stretch to the square; auto pads, and stretches --image where it fits so",
        choices=("auto", "pad", "stretch"),
    )
    out: str = option("detections", "folder for the results")
    no_pictures: bool = option(False, "write JSON only")
    batch_size: int = option(  # half of what `evaluate` takes: whole folders then need less than 1 GB with torch
        4, "latents of one shape per batch: more is faster on a GPU, and takes more memory"
    )
    cache_dir: str = option("", "folder for what is fetched from URLs; empty: latentface in your cache folder")
    cache_gb: float = option(CACHE_GB, "most that this folder may hold, in GB; shared by all processes that use it")
    device: str = option("", "e.g. cuda:0 or cpu; empty: a GPU where there is one")
    precision: str = option(
        "float32",
        "of a checkpoint's network; bfloat16: faster on GPUs and on CPUs with units for it, slower on others",
        choices=PRECISIONS,
    )
    rows: str = option(
        "", "for archives: files of many rows in place of one per latent, jsonl or parquet", choices=("", *ROW_FORMATS)
    )
    part: int = option(1000, "inputs in each of these files")
    processes: int = option(0, "of --rows; 0: one per core here, or per processor of the --ray cluster")
    ray: str = option("", "run --rows by Ray: local, or the address of a cluster")

    def __post_init__(self) -> None:
        if not 0 <= self.conf <= 1 or not 0 <= self.nms <= 1:
            raise LatentFaceError(f"--conf {self.conf} --nms {self.nms}: both lie between 0 and 1")
        if not self.inputs and not self.latent:
            raise LatentFaceError("nothing to look at: give latents, folders or photographs; see --help")
        if self.batch_size < 1 or not 16 <= self.size <= 16384:
            raise LatentFaceError("--batch_size has to be 1 or more and --size 16 to 16384")
        if self.part < 1 or self.processes < 0:
            raise LatentFaceError("--part has to be 1 or more and --processes 0 or more")
        if self.rows and self.image:
            raise LatentFaceError("--rows draws no pictures: leave --image out")
        if (self.ray or self.processes) and not self.rows:
            raise LatentFaceError("--processes and --ray go with --rows: say --rows jsonl or --rows parquet")

    @property
    def places(self) -> list[Path]:
        """All inputs but lists; of a URL what stands for it here, in each process once this was asked."""
        cache = Cache.of(self.cache_dir, self.cache_gb)
        return [place_of(name, cache) for name in (*self.inputs, *self.latent) if not name.startswith("@")]

    @property
    def lists(self) -> list[str]:
        """The inputs that are lists of paths, `@list.txt`."""
        return [name for name in (*self.inputs, *self.latent) if name.startswith("@")]

    @property
    def vm_settings(self) -> VmSettings:
        """Of jpegai-vm."""
        return VmSettings(self.vm, self.python)

    def open_codec(self) -> Codec | None:
        """That of `--codec`; None for JPEG AI without its networks, which are for photographs: latents need none."""
        if not self.codec or (self.codec in JPEG_AI and not (self.codec_weights or self.vm)):
            return None
        codec = open_codec(self.codec, self.codec_weights or None, vm=self.vm_settings)
        check_side(codec, self.size)
        return codec
