"""AP on the validation set, in the same terms as `latentface evaluate`."""

from __future__ import annotations

from itertools import islice

import torch
from torch.utils.data import DataLoader

from latentface.data.batches import collate_by_shape
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.evaluation.average_precision import Evaluation, PictureResult
from latentface.model.predict import predict
from latentface.model.retinaface import RetinaFace
from latentface.progress import progress
from latentface.training.config import TrainConfig
from latentface.training.setup import worker_options


def validate(
    model: RetinaFace,
    dataset: NestedLatentWiderFaceDataset,
    config: TrainConfig,
    precision: torch.dtype,
    batches: int | None = None,
) -> dict[str, float]:
    """Rate -> AP at IoU 0.5 over all faces, whole latents, in `precision`; `batches` limits how many are looked at."""
    model.eval()
    return {str(rate): _at_rate(model, dataset.at_rate(rate), config, precision, batches) for rate in dataset.rates}


def _at_rate(
    model: RetinaFace,
    dataset: NestedLatentWiderFaceDataset,
    config: TrainConfig,
    precision: torch.dtype,
    limit: int | None,
) -> float:
    options = worker_options(config, few=limit is not None)
    loader = DataLoader(dataset, batch_size=config.batch_size, collate_fn=collate_by_shape, **options)
    total = min(limit or len(loader), len(loader))
    device = next(model.parameters()).device
    evaluation = Evaluation()
    for groups in progress(islice(loader, total), f"validation at rate {dataset.rates[0]}", total, unit="batch"):
        for batch in groups:
            found = predict(model, batch.decoded(device), batch.rates, batch.model_indices, precision=precision)
            for row, faces in enumerate(found):
                evaluation.add(PictureResult(faces.boxes, faces.scores, faces.landmarks, *batch.truth(row)))
    return evaluation.overall.score().ap
