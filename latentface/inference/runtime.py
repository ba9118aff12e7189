"""What runs a model: torch on a checkpoint, or ONNX Runtime on an exported graph. `Detector` knows no difference.

ONNX Runtime comes without torch: a program that only detects starts in half a second and stays small.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from latentface.errors import LatentFaceError
from latentface.inference.onnx_file import INPUTS, open_session, read_properties, widened
from latentface.machine import cores, keep_memory, multiplies_bfloat16
from latentface.model.config import PRECISIONS, ChannelCounts, ModelConfig, check_channels
from latentface.model.faces import Faces, Thresholds, best_candidates, keep_boxes

if TYPE_CHECKING:
    from torch import Tensor

    from latentface.model.checkpoint import Checkpoint


class Runtime(Protocol):
    """A model that is ready to run."""

    config: ModelConfig
    rates: tuple[int, ...]  # that it was trained on
    facts: dict[str, Any]  # as kept in the checkpoint
    channels: ChannelCounts  # of its latents

    def predict(
        self, latents: Tensor | np.ndarray, rates: Any, model_indices: Any, thresholds: Thresholds
    ) -> list[Faces]:
        """latents float32 [B, c, h, w], rates [B], model indices [B] (-1: unknown), arrays or tensors -> Faces."""
        ...


class TorchRuntime:
    """A checkpoint on a CPU or GPU, in float32 or, by autocast, in another precision."""

    def __init__(self, checkpoint: Checkpoint, device: str = "", precision: str = "float32") -> None:
        import torch

        from latentface.model.predict import pick_device

        keep_memory()
        self.config, self.facts, self.precision = checkpoint.config, checkpoint.facts, getattr(torch, precision)
        self.device = pick_device(device)
        self.model = checkpoint.build().eval().to(self.device)
        if precision != "float32" and self.device.type == "cpu" and not multiplies_bfloat16():
            print(f"this processor has no units for {precision}: float32 is several times faster here", file=sys.stderr)
        self.rates = self.model.normalisation.known_rates
        self.channels = self.model.normalisation.channel_counts

    def predict(
        self, latents: Tensor | np.ndarray, rates: Any, model_indices: Any, thresholds: Thresholds
    ) -> list[Faces]:
        """See `Runtime.predict`."""
        import torch

        from latentface.model.predict import predict

        inputs = (torch.as_tensor(value) for value in (latents, rates, model_indices))
        return predict(self.model, *inputs, thresholds=thresholds, precision=self.precision)


class OnnxRuntime:
    """An exported graph on the CPU, float32 or int8 as it was written."""

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        self.path = Path(path)
        self.session = open_session(self.path, threads or cores())
        self.config, self.rates, self.facts, self.channels = read_properties(self.session, self.path)

    def predict(
        self, latents: Tensor | np.ndarray, rates: Any, model_indices: Any, thresholds: Thresholds
    ) -> list[Faces]:
        """See `Runtime.predict`."""
        arrays = (
            widened(np.asarray(latents, dtype=np.float32), self.config.channels),
            np.asarray(rates, dtype=np.int64),
            np.asarray(model_indices, dtype=np.int64),
        )
        check_channels(self.channels, latents.shape[1], *arrays[1:])
        boxes, scores, landmarks = self._run(arrays)
        height, width = (side * self.config.input_stride for side in latents.shape[2:])
        found = []
        for score, box, points in zip(scores, boxes, landmarks, strict=True):
            candidates = best_candidates(score, thresholds)
            kept_boxes, kept = keep_boxes(box[candidates], width=width, height=height, thresholds=thresholds)
            chosen = candidates[kept]
            found.append(Faces(kept_boxes, score[chosen], points[chosen].reshape(-1, 5, 2)))
        return found

    def _run(self, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        """Boxes [B, A, 4], scores [B, A], landmarks [B, A, 10]: a stranger's graph may give anything."""
        try:
            outputs = self.session.run(None, dict(zip(INPUTS, arrays, strict=True)))
        except Exception as error:  # onnxruntime has a kind of its own for everything that can go wrong
            reason = str(error).partition("\n")[0]
            raise LatentFaceError(f"{self.path}: cannot be run on these latents ({reason})") from error
        scored = outputs[1].shape
        wanted = [(*scored, 4), scored, (*scored, 10)]
        if len(scored) != 2 or scored[0] != len(arrays[0]) or [output.shape for output in outputs] != wanted:
            raise LatentFaceError(
                f"{self.path}: its outputs have other shapes than they should; export the weights again"
            )
        return outputs


def open_runtime(
    path: str | Path, *, network: str | None, device: str, threads: int = 0, precision: str = "float32"
) -> Runtime:
    """By suffix: `.onnx` for ONNX Runtime, anything else for torch. `network` is only checked."""
    if precision not in PRECISIONS:
        raise LatentFaceError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if Path(path).suffix.lower() != ".onnx":
        import torch

        from latentface.model.checkpoint import load_checkpoint

        if threads:
            torch.set_num_threads(threads)
        return TorchRuntime(load_checkpoint(path, network), device, precision)
    if precision != "float32":
        raise LatentFaceError(
            f"--precision {precision}: an exported model keeps its own; leave it out or give the .pth"
        )
    if device not in ("", "cpu"):
        raise LatentFaceError(f"--device {device}: exported models run on the CPU here; leave it out or give the .pth")
    runtime = OnnxRuntime(path, threads)
    if network and network != runtime.config.backbone:
        raise LatentFaceError(
            f"{path} holds a {runtime.config.backbone}, not a {network}: give --network {runtime.config.backbone}"
        )
    return runtime
