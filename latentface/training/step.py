"""One optimiser step: losses, gradients, and what happens where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from latentface.data.batches import EpochBatches, LatentBatch
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.errors import LatentFaceError
from latentface.model.loss import MultiTaskLoss, Targets
from latentface.model.retinaface import RetinaFace
from latentface.training.config import TrainConfig
from latentface.training.distillation import Distillation
from latentface.training.journal import Journal
from latentface.training.ranks import Ranks
from latentface.training.schedule import learning_rate_factor
from latentface.training.shared_norm import counted
from latentface.training.state import Order, Progress

BAD_IN_A_ROW = 25  # steps, then a run is given up. Float16's scale starts at 2**16: by then it is under 1
BEYOND_SENSE = 1e4  # of a loss's terms together, which begin at tens
TOLD_PER_EPOCH = 3  # skipped steps with a line of their own


@dataclass
class Run:
    """Everything `fit` works with."""

    config: TrainConfig
    ranks: Ranks
    folder: Path
    device: torch.device
    precision: torch.dtype
    dataset: NestedLatentWiderFaceDataset
    validation: NestedLatentWiderFaceDataset | None
    batches: EpochBatches
    loader: DataLoader
    model: RetinaFace
    network: nn.Module  # the model, or what spreads it over processes: to be run forward in a step
    average: AveragedModel | None
    loss: MultiTaskLoss
    distillation: Distillation | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    order: Order
    journal: Journal | None  # of the first process; the others write nothing

    @property
    def judged(self) -> RetinaFace:
        """What is validated and kept: the moving average of the weights where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]


def take_step(run: Run, group: list[LatentBatch]) -> None:
    """One optimiser step over one or several batches, or none where numbers are not finite."""
    epoch = run.progress.epoch + run.progress.batch / len(run.batches)
    factor = learning_rate_factor(
        epoch, epochs=run.config.epochs, warmup=run.config.warmup, schedule=run.config.schedule
    )
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = run.config.lr * factor * parameters["factor"]
    run.optimizer.zero_grad(set_to_none=True)
    end = run.progress.batch + len(group)
    may_overflow = run.precision == torch.float16
    buffers = [buffer.clone() for buffer in run.model.buffers()] if may_overflow else []  # batch statistics
    loss = max(_backward_all(run, group))
    taken = math.isfinite(loss) and _update(run)
    if not taken:
        run.progress.skip_step(end)
        for buffer, before in zip(run.model.buffers(), buffers, strict=False):
            buffer.copy_(before)
    if taken and loss < BEYOND_SENSE:
        run.progress.bad_in_a_row = 0
        return
    run.progress.bad_in_a_row += 1
    if run.progress.bad_in_a_row == BAD_IN_A_ROW:
        raise _divergence(run, group)


def _backward_all(run: Run, group: list[LatentBatch]) -> Iterator[float]:
    """Adds the gradients of all batches; their losses, infinite of the first that float16 cannot hold, the last then.

    Raises LatentFaceError where a loss is not finite in a precision that has no such limit.
    """
    for number, batch in enumerate(group, 1):
        with _gradients_kept(run, number < len(group)):
            loss = _backward(run, batch, len(group))
        yield loss
        if not math.isfinite(loss):
            return


def _backward(run: Run, batch: LatentBatch, batches: int) -> float:
    """Adds the gradients of one of so many batches of a step; its loss, or infinity, see above."""
    losses = compute_losses(run, batch)
    parts = torch.stack([loss.detach() for loss in losses.values()]).cpu()  # one transfer
    values = dict(zip(losses, run.ranks.add_up(parts).tolist(), strict=True))
    if not math.isfinite(values["total"]):
        _tell(run, batch, values)
        return math.inf
    # What DDP gives is the mean over processes, we want the sum.
    run.scaler.scale(losses["total"] * run.ranks.size / batches).backward()
    run.progress.add(values, pictures=run.batches.shares(run.progress.batch)[0], batches=1)
    return sum(values.values()) - values["total"]  # whatever they are weighted with


def _tell(run: Run, batch: LatentBatch, values: dict[str, float]) -> None:
    """Of a loss that is not finite: in float16 a line, in other precisions a LatentFaceError."""
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
    names = [name for part in run.ranks.gather(batch.names) for name in part]
    what = (
        f"the loss is not finite in epoch {run.progress.epoch + 1}, batch {run.progress.batch + 1} ({terms}), pictures "
        f"{', '.join(names)}"
    )
    if run.precision != torch.float16:
        raise LatentFaceError(
            f"{what}: look at their labels and latents, or lower --lr; the weights up to the last epoch are in "
            f"{run.folder}"
        )
    if run.progress.skipped < TOLD_PER_EPOCH:
        print(f"step skipped: {what}", flush=True)


def _update(run: Run) -> bool:
    """The optimiser's step and the moving average; False where a gradient is not finite: nothing is changed then."""
    scale = run.scaler.get_scale()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.scaler.get_scale() < scale:  # its way to say that it has skipped the step
        return False
    if run.average is not None:
        run.average.update_parameters(run.model)
    return True


def _divergence(run: Run, group: list[LatentBatch]) -> LatentFaceError:
    parts = run.ranks.gather([name for batch in group for name in batch.names])
    names = ", ".join(name for part in parts for name in part)
    other = ", give --precision float32" if run.precision == torch.float16 else ""
    return LatentFaceError(
        f"the training diverges: {BAD_IN_A_ROW} steps in a row had a loss over {BEYOND_SENSE:g}, or one or gradients "
        f"that are not finite, the last in epoch {run.progress.epoch + 1}, batch {run.progress.batch}, pictures "
        f"{names}: lower --lr{other}, look at labels and latents; the weights of earlier epochs are in {run.folder}"
    )


def compute_losses(run: Run, batch: LatentBatch) -> dict[str, Tensor]:
    """Of several processes the losses of each are its parts of the whole batch's, to be added up."""
    latents = batch.decoded(run.device)
    too_low = batch.boxes[..., 3] - batch.boxes[..., 1] < run.config.min_face
    targets = Targets(batch.boxes, batch.landmarks, batch.valid, batch.ignore | too_low).to(run.device)
    rates = batch.rates.to(run.device, non_blocking=True)
    indices = batch.model_indices.to(run.device, non_blocking=True)
    rows, columns = latents.shape[-2:]
    priors = run.model.priors(rows, columns, run.device)
    counts = run.batches.shares(run.progress.batch)[1] > 0  # else it is a picture of another process's, to take part
    mixed = torch.autocast(run.device.type, dtype=run.precision, enabled=run.precision != torch.float32)
    with _reading(run), counted(run.model, counts), mixed:
        predictions = run.network(latents, rates, indices, neck=run.distillation is not None)
    if not counts:
        predictions, targets = _none_of(predictions), Targets(**_none_of(vars(targets)))
    losses = run.loss(predictions, targets, priors, run.model.priors_per_level(rows, columns))
    weight = run.config.teacher_weight
    if run.distillation is None or not weight:
        return losses
    if run.ranks.any(batch.pictures is None) or batch.pictures is None:  # in any process's part
        return losses
    with torch.autocast(run.device.type, dtype=run.precision, enabled=run.precision != torch.float32):
        seen = run.distillation.look(batch.pictures, run.device)
    taught = run.distillation(predictions["neck"], predictions, *(seen if counts else _none_of(seen)))
    return losses | taught | {"total": losses["total"] + weight * sum(taught.values())}


def _none_of(values: Any) -> Any:
    """The same without a picture: tensors [B, ...] -> [0, ...], in dictionaries, lists and tuples."""
    if isinstance(values, Tensor):
        return values[:0]
    if isinstance(values, dict):
        return {name: _none_of(value) for name, value in values.items()}
    return type(values)(_none_of(value) for value in values)


def _gradients_kept(run: Run, more: bool) -> AbstractContextManager[None]:
    """Of several processes: gradients of all but the last batch of a step wait in each, to be added up once.

    DDP decides in the forward pass: both passes belong into the block.
    """
    if more and isinstance(run.network, DistributedDataParallel):
        return run.network.no_sync()
    return nullcontext()


@contextmanager
def _reading(run: Run) -> Iterator[None]:
    """With `--channels_read`, the number of channels that this batch reads: drawn from (seed, epoch, batch)."""
    if not run.config.channels_read:
        yield
        return
    draw = np.random.default_rng((run.config.seed, run.progress.epoch, run.progress.batch))
    normalisation: Any = run.model.normalisation
    normalisation.channels_read = int(draw.choice(run.config.channels_read))
    try:
        yield
    finally:
        normalisation.channels_read = 0  # validation reads all
