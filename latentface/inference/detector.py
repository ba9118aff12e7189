"""The Python way in: `Detector.load("weight_final.pth")(latent, rate=75)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, overload

import numpy as np

from latentface.codecs.base import UNKNOWN_INDEX, may_read
from latentface.data.pretrained import pretrained
from latentface.errors import LatentFaceError
from latentface.inference.runtime import Runtime, open_runtime
from latentface.model.faces import Faces, Thresholds

if TYPE_CHECKING:
    from torch import Tensor

Latent = Union[np.ndarray, "Tensor"]


class Detector:
    """Finds faces in raw latents of any height and width."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.facts = runtime.facts

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        network: str | None = None,
        device: str = "",
        threads: int = 0,
        precision: str = "float32",
    ) -> Detector:
        """From a checkpoint, a bare state dict, or an exported `.onnx`, which ONNX Runtime then runs.

        `network` is only checked. `threads`: of this process, for the network; 0: all. `precision` of a checkpoint:
        float32, or bfloat16 or float16 by autocast. Raises LatentFaceError where the file contradicts `network` or
        is none of these.
        """
        return cls(open_runtime(path, network=network, device=device, threads=threads, precision=precision))

    @classmethod
    def pretrained(cls, codec: str, *, device: str = "", precision: str = "float32") -> Detector:
        """The detector for latents of `codec` that comes along. Raises LatentFaceError for a codec without one."""
        return cls.load(pretrained(codec), device=device, precision=precision)

    @property
    def rates(self) -> tuple[int, ...]:
        """The rates that the model was trained on."""
        return self.runtime.rates

    @property
    def stride(self) -> int:
        """Picture pixels per latent cell."""
        return self.runtime.config.input_stride

    @overload
    def __call__(
        self,
        latents: Latent,
        rate: int | None = None,
        *,
        model_index: int | None = None,
        confidence: float = 0.5,
        nms: float = 0.4,
        batch_size: int = 8,
    ) -> Faces: ...

    @overload
    def __call__(
        self,
        latents: Sequence[Latent],
        rate: int | Sequence[int] | None = None,
        *,
        model_index: int | Sequence[int | None] | None = None,
        confidence: float = 0.5,
        nms: float = 0.4,
        batch_size: int = 8,
    ) -> list[Faces]: ...

    def __call__(
        self,
        latents: Latent | Sequence[Latent],
        rate: int | Sequence[int] | None = None,
        *,
        model_index: int | Sequence[int | None] | None = None,
        confidence: float = 0.5,
        nms: float = 0.4,
        batch_size: int = 8,
    ) -> Faces | list[Faces]:
        """Faces of one latent [C, h, w] or [1, C, h, w]; of a list, a list in the same order.

        `rate` (one, or one per latent) may be left out where the model knows only one. `model_index`: which of the
        codec's networks made the latent, where that is known and not the usual one of the rate. Latents of one shape
        are batched. Raises LatentFaceError for a rate, channel count or value that the model cannot take.
        """
        items: list[Any] = [latents] if _is_latent(latents) else list(latents)
        rates = [self.check_rate(value) for value in _one_each(rate, len(items), "rates")]
        indices = [UNKNOWN_INDEX if v is None else v for v in _one_each(model_index, len(items), "model indices")]
        arrays = [
            self.check_latent(item, f"latent {number}", *of)
            for number, (item, *of) in enumerate(zip(items, rates, indices, strict=True))
        ]
        thresholds = Thresholds(confidence=confidence, nms=nms)
        faces: dict[int, Faces] = {}
        for chosen in _same_shape(arrays, batch_size):
            batch = np.stack([arrays[i] for i in chosen])
            batch_rates, batch_indices = (np.array([values[i] for i in chosen]) for values in (rates, indices))
            found = self.predict(batch, batch_rates, batch_indices, thresholds)
            faces.update(zip(chosen, found, strict=True))
        return faces[0] if _is_latent(latents) else [faces[i] for i in range(len(arrays))]

    def read_channels(self, count: int) -> None:
        """From now on only so many channels of a latent count, the strongest of its codec model; 0: all.

        Raises LatentFaceError for what has no such choice: exported models, and models of pictures.
        """
        normalisation: Any = getattr(getattr(self.runtime, "model", None), "normalisation", None)
        if not hasattr(normalisation, "channels_read"):
            raise LatentFaceError("channels can be left out by a checkpoint (.pth) of latents only")
        normalisation.channels_read = count

    def predict(
        self, latents: Tensor | np.ndarray, rates: Any, model_indices: Any, thresholds: Thresholds
    ) -> list[Faces]:
        """One batch of float32 latents [B, C, h, w] that are known to be good -> Faces of each."""
        return list(map(self._taught, self.runtime.predict(latents, rates, model_indices, thresholds)))

    def _taught(self, faces: Faces) -> Faces:
        """Without the landmarks (NaN) of a model that never saw any: they would be invented."""
        if self.facts.get("landmarks", True):
            return faces
        return replace(faces, landmarks=np.full_like(faces.landmarks, np.nan))

    def check_latent(self, latent: Latent, where: str, rate: int, model_index: int = UNKNOWN_INDEX) -> np.ndarray:
        """The latent as float32 [C, h, w]; raises LatentFaceError, naming `where`, for what the model cannot take."""
        array: Any = latent if isinstance(latent, np.ndarray) else latent.detach().cpu()
        if array.ndim == 4 and array.shape[0] == 1:
            array = array[0]
        channels = self.runtime.channels.of(rate, model_index)
        if array.ndim != 3 or array.shape[0] != channels or 0 in array.shape:
            at_rate = f" at rate {rate}" if len(self.rates) > 1 else ""
            raise LatentFaceError(
                f"{where}: shape {list(array.shape)}; this model takes [{channels}, h, w] or [1, {channels}, h, w]"
                f"{at_rate}"
            )
        array = np.asarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            raise LatentFaceError(f"{where}: NaN or infinite values; write this latent again")
        return array

    @property
    def codec(self) -> str:
        """The codec of the latents it was trained on, "unknown" where the checkpoint does not say."""
        return str(self.facts.get("codec", "unknown"))

    def check_codec(self, codec: str, where: str) -> None:
        """Raises LatentFaceError where both codecs are known and differ: the same channels mean different things."""
        if not may_read(self.codec, codec):
            raise LatentFaceError(f"{where}: a latent of {codec}, but these weights were trained on {self.codec}")

    def check_rate(self, rate: int | None) -> int:
        """The rate to use. Raises LatentFaceError for an unknown one, or none where the model knows several."""
        known = self.rates
        if rate is None and len(known) <= 1:
            return known[0] if known else 0
        if rate not in known and known:
            listed = ", ".join(map(str, known))
            said = (
                "this model knows several rates: say which" if rate is None else f"rate {rate} is unknown to this model"
            )
            raise LatentFaceError(f"{said} (it was trained on {listed})")
        return int(rate or 0)


def _one_each(value: object, count: int, what: str) -> list:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise LatentFaceError(f"{len(values)} {what} for {count} latents: give one, or one for each")
    return values


def _is_latent(value: object) -> bool:
    """An array or a tensor, not a list of them."""
    return hasattr(value, "shape")


def _same_shape(arrays: list[np.ndarray], batch_size: int) -> list[list[int]]:
    """Positions of `arrays` in batches of one shape: padding would change what the network sees at the border."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, array in enumerate(arrays):
        groups.setdefault(tuple(array.shape), []).append(position)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]
