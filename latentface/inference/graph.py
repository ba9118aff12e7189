"""A RetinaFace as one graph that needs nothing of ours to run: raw latents in, decoded boxes out.

    latents float32 [B, C, h, w], rates int64 [B], model_indices int64 [B] (-1: unknown)
      -> boxes [B, A, 4] x1 y1 x2 y2, scores [B, A] 0..1, landmarks [B, A, 10] x y, all in picture pixels

Batch, height and width are free. Where rates differ in their number of channels C is the largest, and what a latent
lacks is 0. Priors are computed in the graph from the latent's shape; suppression stays outside.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentface.errors import LatentFaceError
from latentface.inference.onnx_file import FORMAT, INPUTS, INSTALL, OUTPUTS
from latentface.model.anchors import decode_boxes, decode_landmarks, make_priors
from latentface.model.postprocess import face_scores
from latentface.model.retinaface import LEVEL_STRIDES, RetinaFace


class DecodedRetinaFace(nn.Module):
    """The model with decoding behind it."""

    def __init__(self, model: RetinaFace) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, rates: Tensor, model_indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        predictions = self.model(latents, rates, model_indices)
        stride = self.model.config.stride
        height, width = latents.shape[2] * stride, latents.shape[3] * stride
        shapes = tuple(((height + s - 1) // s, (width + s - 1) // s) for s in LEVEL_STRIDES)
        priors = make_priors(shapes, LEVEL_STRIDES, self.model.config.prior_sizes, latents.device)
        boxes = decode_boxes(predictions["boxes"], priors)
        return boxes, face_scores(predictions["scores"]), decode_landmarks(predictions["landmarks"], priors)


def write_graph(model: RetinaFace, facts: dict[str, Any], path: Path) -> None:
    """Writes one ONNX file; raises LatentFaceError where the packages for it are missing or too old."""
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter needs it and says so less clearly
    except ImportError as error:
        raise LatentFaceError(f"export needs onnx and onnxscript: {INSTALL}") from error
    config = model.config
    example = (torch.randn(2, config.channels, 6, 10), torch.full((2,), 75), torch.full((2,), -1))
    size = torch.export.Dim
    batch, height, width = (
        size("batch", min=1, max=4096),
        size("height", min=1, max=4096),
        size("width", min=1, max=4096),
    )
    shapes = ({0: batch, 2: height, 3: width}, {0: batch}, {0: batch})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own future
        try:
            program = torch.onnx.export(
                DecodedRetinaFace(model).eval(), example, dynamo=True, dynamic_shapes=shapes, verbose=False,
                input_names=list(INPUTS), output_names=list(OUTPUTS),
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise LatentFaceError(
                f"the exporter of torch {torch.__version__} cannot export this model; install a newer torch"
            ) from error
    graph = program.model_proto  # type: ignore[union-attr]
    described = {"format": FORMAT, "model": json.dumps(asdict(config)), "facts": json.dumps(facts)}
    described["rates"] = json.dumps(list(model.normalisation.known_rates))
    described["channels"] = json.dumps(model.normalisation.channel_counts.to_json())
    onnx.helper.set_model_props(graph, described)
    onnx.save(graph, str(path))
