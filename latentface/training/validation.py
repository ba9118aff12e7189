"""AP on the validation set, in the same terms as `latentface evaluate`."""

from __future__ import annotations

from dataclasses import replace

import torch

from latentface.data.batches import collate_by_shape
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.reading import load_batches
from latentface.evaluation.average_precision import DetectionTally, PictureResult, find_pairs
from latentface.model.predict import predict
from latentface.model.retinaface import RetinaFace
from latentface.progress import progress
from latentface.training.config import TrainConfig
from latentface.training.ranks import Ranks
from latentface.training.stopping import StopRequest

IOU = 0.5  # from which a detection counts as found


def validate(
    model: RetinaFace,
    dataset: NestedLatentWiderFaceDataset,
    config: TrainConfig,
    precision: torch.dtype,
    ranks: Ranks,
    stop: StopRequest | None = None,
) -> dict[str, float]:
    """Rate -> AP at IoU 0.5 over all faces, whole latents, in `precision`.

    Of several processes each looks at a part of whole batches; the AP is that of one process, to the bit. Of what was
    looked at before there was a reason to `stop`.
    """
    model.eval()
    found = {}
    for rate in dataset.rates:
        view = dataset.at_rate(rate).by_shard()
        tally = DetectionTally()
        for part in ranks.gather(_tally(model, _own_part(view, config.batch_size, ranks), config, precision, stop)):
            tally.extend(part)
        found[str(rate)] = tally.score().ap
    return found


def try_validation(
    model: RetinaFace, dataset: NestedLatentWiderFaceDataset, config: TrainConfig, precision: torch.dtype
) -> None:
    """Two batches of every rate, so that what would fail after an epoch fails before it."""
    model.eval()
    settings = replace(config, workers=0)  # for a handful of batches, processes are not worth starting
    for rate in dataset.rates:
        _tally(model, dataset.at_rate(rate).by_shard().part(0, 2 * config.batch_size), settings, precision)


def _own_part(dataset: NestedLatentWiderFaceDataset, batch_size: int, ranks: Ranks) -> NestedLatentWiderFaceDataset:
    """Whole batches, so that each is composed as if there were one process."""
    batches = -(-len(dataset) // batch_size)
    start, stop = (batches * rank // ranks.size * batch_size for rank in (ranks.rank, ranks.rank + 1))
    return dataset.part(start, stop)


def _tally(
    model: RetinaFace,
    dataset: NestedLatentWiderFaceDataset,
    config: TrainConfig,
    precision: torch.dtype,
    stop: StopRequest | None = None,
) -> DetectionTally:
    loader = load_batches(dataset, collate_by_shape, config.workers, batch_size=config.batch_size)
    device = next(model.parameters()).device
    tally = DetectionTally()
    title = f"validation at rate {dataset.rates[0]}"
    for groups in progress(loader, title, len(loader), unit="batch"):
        if stop is not None and stop.reason:
            break
        for batch in groups:
            found = predict(model, batch.decoded(device), batch.rates, batch.model_indices, precision=precision)
            for row, faces in enumerate(found):
                result = PictureResult(faces.boxes, faces.scores, faces.landmarks, *batch.truth(row))
                tally.add(result, find_pairs(result, IOU))
    return tally
