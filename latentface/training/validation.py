"""AP on the validation set, in the same terms as `latentface evaluate`."""

from __future__ import annotations

from itertools import islice

import torch

from latentface.data.batches import collate_by_shape
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.reading import load_batches
from latentface.evaluation.average_precision import Evaluation, PictureResult
from latentface.model.predict import predict
from latentface.model.retinaface import RetinaFace
from latentface.progress import progress
from latentface.training.config import TrainConfig
from latentface.training.stopping import StopRequest


def validate(
    model: RetinaFace,
    dataset: NestedLatentWiderFaceDataset,
    config: TrainConfig,
    precision: torch.dtype,
    stop: StopRequest | None = None,
    batches: int | None = None,
) -> dict[str, float]:
    """Rate -> AP at IoU 0.5 over all faces, whole latents, in `precision`; `batches` limits how many are looked at.

    Of what was looked at before there was a reason to `stop`.
    """
    model.eval()
    views = [dataset.at_rate(rate) for rate in dataset.rates]
    return {str(view.rates[0]): _at_rate(model, view, config, precision, stop, batches) for view in views}


def _at_rate(
    model: RetinaFace,
    dataset: NestedLatentWiderFaceDataset,
    config: TrainConfig,
    precision: torch.dtype,
    stop: StopRequest | None,
    limit: int | None,
) -> float:
    workers = config.workers if limit is None else 0  # for a handful of batches, processes are not worth starting
    loader = load_batches(dataset, collate_by_shape, workers, batch_size=config.batch_size)
    total = min(limit or len(loader), len(loader))
    device = next(model.parameters()).device
    evaluation = Evaluation()
    for groups in progress(islice(loader, total), f"validation at rate {dataset.rates[0]}", total, unit="batch"):
        if stop is not None and stop.reason:
            break
        for batch in groups:
            found = predict(model, batch.decoded(device), batch.rates, batch.model_indices, precision=precision)
            for row, faces in enumerate(found):
                evaluation.add(PictureResult(faces.boxes, faces.scores, faces.landmarks, *batch.truth(row)))
    return evaluation.overall.score().ap
