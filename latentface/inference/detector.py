"""The Python way in: `Detector.load("weight_final.pth")(latent, rate=75)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from latentface.codecs.base import UNKNOWN_INDEX
from latentface.errors import LatentFaceError
from latentface.model.checkpoint import Checkpoint, load_checkpoint
from latentface.model.postprocess import Faces, Thresholds
from latentface.model.predict import pick_device, predict

Latent = np.ndarray | Tensor


class Detector:
    """Finds faces in raw latents of any height and width."""

    def __init__(self, checkpoint: Checkpoint, *, device: str = "") -> None:
        self.facts = checkpoint.facts
        self.device = pick_device(device)
        self.model = checkpoint.build().eval().to(self.device)

    @classmethod
    def load(cls, path: str | Path, *, network: str | None = None, device: str = "") -> Detector:
        """From a checkpoint or a bare state dict.

        `network` is only checked. Raises LatentFaceError where it contradicts the file or the file is no checkpoint.
        """
        return cls(load_checkpoint(path, network), device=device)

    @property
    def rates(self) -> tuple[int, ...]:
        """The rates that the model was trained on."""
        return self.model.normalisation.known_rates

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
        items = [latents] if isinstance(latents, np.ndarray | Tensor) else list(latents)
        arrays = [self.check_latent(item, f"latent {number}") for number, item in enumerate(items)]
        rates = [self.check_rate(value) for value in _one_each(rate, len(arrays), "rates")]
        indices = [UNKNOWN_INDEX if v is None else v for v in _one_each(model_index, len(arrays), "model indices")]
        thresholds = Thresholds(confidence=confidence, nms=nms)
        faces: dict[int, Faces] = {}
        for chosen in _same_shape(arrays, batch_size):
            batch = torch.stack([arrays[i] for i in chosen])
            batch_rates, batch_indices = (torch.tensor([values[i] for i in chosen]) for values in (rates, indices))
            found = predict(self.model, batch, batch_rates, batch_indices, thresholds=thresholds)
            faces.update(zip(chosen, map(self._taught, found), strict=True))
        return faces[0] if isinstance(latents, np.ndarray | Tensor) else [faces[i] for i in range(len(arrays))]

    def _taught(self, faces: Faces) -> Faces:
        """Without the landmarks (NaN) of a model that never saw any: they would be invented."""
        if self.facts.get("landmarks", True):
            return faces
        return replace(faces, landmarks=np.full_like(faces.landmarks, np.nan))

    def check_latent(self, latent: Latent, where: str) -> Tensor:
        """The latent as float32 [C, h, w]; raises LatentFaceError, naming `where`, for what the model cannot take."""
        tensor = latent if isinstance(latent, Tensor) else torch.from_numpy(np.array(latent, dtype=np.float32))
        if tensor.dim() == 4 and tensor.shape[0] == 1:
            tensor = tensor[0]
        channels = self.model.config.channels if self.model.config.input == "latent" else 3
        if tensor.dim() != 3 or tensor.shape[0] != channels or 0 in tensor.shape:
            raise LatentFaceError(
                f"{where}: shape {list(tensor.shape)}; this model takes [{channels}, h, w] or [1, {channels}, h, w]"
            )
        tensor = tensor.float()
        if not tensor.isfinite().all():
            raise LatentFaceError(f"{where}: NaN or infinite values; write this latent again")
        return tensor

    @property
    def codec(self) -> str:
        """The codec of the latents it was trained on, "unknown" where the checkpoint does not say."""
        return str(self.facts.get("codec", "unknown"))

    def check_codec(self, codec: str, where: str) -> None:
        """Raises LatentFaceError where both codecs are known and differ: the same channels mean different things."""
        if codec not in ("", "unknown", self.codec) and self.codec != "unknown":
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


def _same_shape(arrays: list[Tensor], batch_size: int) -> list[list[int]]:
    """Positions of `arrays` in batches of one shape: padding would change what the network sees at the border."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, array in enumerate(arrays):
        groups.setdefault(tuple(array.shape), []).append(position)
    return [group[i : i + batch_size] for group in groups.values() for i in range(0, len(group), batch_size)]
