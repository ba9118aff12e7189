"""Exact JPEG AI latents through an installed reference software (VM), which runs as another process.

For each picture and rate its encoder makes a bitstream, and its decoder writes the `y_hat` that it reads out of that:

    python -m src.reco.coders.encoder IN.png OUT.bits --set_target_bpp N --cfg ... -target_device cpu
    python -m src.dump.coders.decoder OUT.bits REC.png --device cpu --latents_list model_y.y_hat model_uv.y_hat

The software has a way of its own to code many pictures in one process, with its networks read once. It is used as long
as it gives the same bits and latents as these commands: the first PROOFS pictures are coded both ways.
"""

from __future__ import annotations

import re
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from latentface.array_files import read_arrays
from latentface.codecs import VmSettings
from latentface.codecs.base import BITSTREAM, RATES, Latent, check_rgb, join_channels
from latentface.codecs.jpegai import BETAS, MODEL_OF_RATE, JpegAiCodec
from latentface.codecs.vm_process import Alone, CommandFailedError, Runner, Server, Software
from latentface.errors import LatentFaceError, PictureError

ENCODER, DECODER = "src.reco.coders.encoder", "src.dump.coders.decoder"
TOOLS = "cfg/tools_off.json"
BASE_PROFILES = ("main", "base")  # the base operating point's name, by release
SMALLEST_SIDE = 64  # pixels; the bitstream's header holds no less
PROOFS = 2  # the second is the first that a process codes after another one
# How the encoder says which model its rate control has taken; the last one counts.
_MODEL = re.compile(r"(?:tool id|best model is|model[ _]?(?:id|idx|index))\s*[:=]?\s*(\d+)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Coded:
    """What the software makes of a picture at a rate."""

    bits: bytes
    array: np.ndarray  # float32 [C, h, w], luma first
    model_index: int | None

    def same(self, other: Coded) -> bool:
        return self.bits == other.bits and np.array_equal(self.array, other.array)


class JpegAiVmCodec:
    """Latents as the software's own decoder reads them: exact, with the true size of their bitstream.

    They count as codec `jpegai`, those of another profile than the base operating point's as `jpegai-<profile>`. A
    rate is the target that the software is given, 12 to 200 or so. The model index is what the encoder prints, None
    where it prints none. Pictures on which it fails, or takes too long, raise PictureError.
    """

    stride = multiple = 16
    rates = RATES

    def __init__(self, settings: VmSettings) -> None:
        self.software = _software(settings)
        self.profile = _profile(self.software.folder, settings.profile)
        self.name = "jpegai" if self.profile in BASE_PROFILES else f"jpegai-{self.profile}"
        self.alone = Alone(self.software)
        self._server: Server | None = None
        self._proofs: int | None = 0  # None: the commands are run alone for good

    def encode(self, rgb: np.ndarray, rate: int) -> Latent:
        """See `Codec.encode`."""
        return self.encode_rates(rgb, [rate])[0]

    def encode_rates(self, rgb: np.ndarray, rates: Sequence[int], pixels: int | None = None) -> list[Latent]:
        """See `Codec.encode_rates`; nothing is shared between rates."""
        check_rgb(rgb)
        height, width = rgb.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise LatentFaceError(
                f"jpegai-vm codes no picture of {width}x{height}: {SMALLEST_SIDE} pixels a side at least"
            )
        with tempfile.TemporaryDirectory(prefix="latentface-vm-", ignore_cleanup_errors=True) as place:
            Image.fromarray(rgb).save(Path(place) / "picture.png")
            coded = [self._code(Path(place), rate, (height, width)) for rate in rates]
        return [
            Latent(
                array=one.array,
                codec=self.name,
                rate=int(rate),
                model_index=one.model_index,
                step=None,
                bpp=8 * len(one.bits) / (pixels or height * width),
                source_width=width,
                source_height=height,
                exact=True,
                pad_right=-width % self.stride,
                pad_bottom=-height % self.stride,
                stride=self.stride,
                bpp_from=BITSTREAM,
            )
            for rate, one in zip(rates, coded, strict=True)
        ]

    def usual_model(self, rate: int) -> int | None:
        """See `Codec.usual_model`."""
        return MODEL_OF_RATE.get(rate)

    def decode(self, latent: Latent) -> np.ndarray:
        """See `Codec.decode`: by our own reading of the base operating point's networks in the checkout."""
        return JpegAiCodec(self.software.folder).decode(latent)

    def _code(self, place: Path, rate: int, sides: tuple[int, int]) -> Coded:
        """In the process that stays, if there is one; what it gives counts once it has proved itself."""
        if self._proofs is None:
            return self._run(self.alone, place, rate, sides)
        try:
            quick = self._run(self._kept(), place, rate, sides)
        except CommandFailedError as error:
            self._end_server()
            coded = self._run(self.alone, place, rate, sides)  # raises where not the process is to blame
            self._distrust(str(error))
            return coded
        if self._proofs == PROOFS:
            return quick
        coded = self._run(self.alone, place, rate, sides)
        if coded.same(quick):
            self._proofs += 1
        else:
            self._distrust("it gives other latents then")
        return coded

    def _kept(self) -> Server:
        if self._server is None or self._server.process.poll() is not None:
            self._server = Server(self.software)
            weakref.finalize(self, self._server.close)
        return self._server

    def _end_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _distrust(self, reason: str) -> None:
        self._end_server()
        self._proofs = None
        print(f"jpegai-vm: a process for each command from now on, not one for all ({reason})", file=sys.stderr)

    def _run(self, runner: Runner, place: Path, rate: int, sides: tuple[int, int]) -> Coded:
        """Both commands in a folder of their own, two below: the software logs in the folder above the bitstream's."""
        with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
            work = Path(folder) / "coded" / "bits"
            work.mkdir(parents=True)
            bits, log = work / "picture.bits", Path(folder) / "log.txt"
            runner.run(ENCODER, self._encoder_arguments(place / "picture.png", bits, rate), log)
            if not bits.is_file() or not bits.stat().st_size:
                raise PictureError(f"{ENCODER} ended well at rate {rate}, but wrote no bitstream")
            index = _model_index(log)
            latents = ["model_y.y_hat", "model_uv.y_hat"]
            arguments = [str(bits), str(work / "rec.png"), "--device", "cpu", "--latents_list", *latents]
            runner.run(DECODER, arguments, log)
            parts = [_dumped(work / name.replace(".", "/"), name) for name in latents]
            return Coded(bits.read_bytes(), _joined(parts, sides), index)

    def _encoder_arguments(self, picture: Path, bits: Path, rate: int) -> list[str]:
        configurations = [TOOLS, f"cfg/profiles/{self.profile}.json"]
        target = ["--set_target_bpp", str(int(rate)), "--cfg", *configurations, "-target_device", "cpu"]
        return [str(picture), str(bits), *target]


def _software(settings: VmSettings) -> Software:
    if not settings.folder or not settings.python:
        raise LatentFaceError(
            "codec jpegai-vm needs --vm DIR, a checkout of the JPEG AI reference software, and --python PATH, the "
            "Python of the environment that it was installed into"
        )
    if not settings.timeout > 0:
        raise LatentFaceError(f"--vm_timeout {settings.timeout:g}: has to be above 0 seconds")
    folder = Path(settings.folder).resolve()  # commands run inside of it
    for module in (ENCODER, DECODER):
        if not (folder / (module.replace(".", "/") + ".py")).is_file():
            missing = module.replace(".", "/") + ".py"
            raise LatentFaceError(
                f"--vm {settings.folder}: no checkout of the JPEG AI reference software: no {missing}"
            )
    python = settings.python
    if Path(python).parent != Path():  # a path, and no name to be searched for
        python = str(Path(python).absolute())  # not resolved: a link is what makes an environment
    software = Software(folder, python, settings.timeout)
    software.check()
    return software


def _profile(folder: Path, wanted: str) -> str:
    if not (folder / TOOLS).is_file():
        raise LatentFaceError(f"--vm {folder}: {TOOLS} is missing; check the release out anew")
    there = sorted(path.stem for path in (folder / "cfg/profiles").glob("*.json"))
    names = BASE_PROFILES if wanted == "auto" else (wanted,)
    for name in names:
        if name in there:
            return name
    raise LatentFaceError(
        f"--vm {folder}: no {' or '.join(f'cfg/profiles/{name}.json' for name in names)}; there are "
        f"{', '.join(there) or 'none'}: name one with --vm_profile"
    )


def _model_index(log: Path) -> int | None:
    found = _MODEL.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    return int(found[-1]) if found and int(found[-1]) < len(BETAS) else None


def _dumped(folder: Path, name: str) -> np.ndarray:
    """The one tensor in a folder, float32 [C, h, w]; read as numbers, nothing is executed."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    if len(files) != 1:
        raise PictureError(f"{DECODER} ended well, but wrote {len(files)} files of {name}")
    try:
        [array] = read_arrays(files[0])
    except LatentFaceError as error:
        raise PictureError(f"{DECODER}: its {name} cannot be read: {error}") from error
    return array


def _joined(parts: list[np.ndarray], sides: tuple[int, int]) -> np.ndarray:
    expected = tuple(-(-side // JpegAiVmCodec.stride) for side in sides)
    if parts[0].shape[1:] != expected:
        raise PictureError(
            f"{DECODER} wrote luma of shape {list(parts[0].shape)}; a picture of {sides[1]}x{sides[0]} has "
            f"[C, {expected[0]}, {expected[1]}]"
        )
    try:
        return join_channels(parts, DECODER)
    except LatentFaceError as error:
        raise PictureError(str(error)) from error
