"""Training, to be read from top to bottom: `train` = set up, then `fit`.

An experiment directory holds config.yaml, metrics.jsonl, curves.png, weight_<epoch>.pth, weight_best.pth (by AP on
val), at the end weight_final.pth, and state.pth for `--resume`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from latentface.data.batches import EpochBatches, LatentBatch
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.errors import LatentFaceError
from latentface.machine import keep_memory
from latentface.model.checkpoint import save_checkpoint
from latentface.model.loss import MultiTaskLoss, Targets
from latentface.model.predict import pick_device
from latentface.model.retinaface import RetinaFace
from latentface.progress import progress as progress_bar
from latentface.training import setup
from latentface.training.config import TrainConfig
from latentface.training.distillation import Distillation
from latentface.training.entry import start_as
from latentface.training.journal import Journal
from latentface.training.schedule import learning_rate_factor
from latentface.training.state import Order, Progress, load_state, save_state
from latentface.training.stopping import StopRequest
from latentface.training.validation import validate


@dataclass
class Run:
    """Everything `fit` works with."""

    config: TrainConfig
    folder: Path
    device: torch.device
    precision: torch.dtype
    dataset: NestedLatentWiderFaceDataset
    validation: NestedLatentWiderFaceDataset | None
    batches: EpochBatches
    loader: DataLoader
    model: RetinaFace
    average: AveragedModel | None
    loss: MultiTaskLoss
    distillation: Distillation | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    order: Order
    journal: Journal

    @property
    def judged(self) -> RetinaFace:
        """What is validated and kept: the moving average of the weights where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]


def train(config: TrainConfig) -> Path:
    """Trains as `config` says and returns the experiment directory."""
    keep_memory()
    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    precision = setup.pick_precision(config.precision, device)
    config = replace(  # settled once, so that a resumed run keeps its arithmetic
        config,
        precision=str(precision).removeprefix("torch."),
        workers=setup.pick_workers(config.workers, device),
    )
    dataset, validation = setup.open_datasets(config)
    setup.describe(config, dataset, validation, device)
    setup.check_data(config, dataset, validation)
    model = setup.build_model(config, dataset).to(device)
    distillation = setup.build_distillation(config, model, device)
    batches = EpochBatches(len(dataset), config.batch_size, config.seed)
    loader = setup.build_loader(config, dataset, batches, device)
    if config.fit_entry and distillation is not None and not config.resume:
        start_as(distillation.teacher, model, loader, config.fit_entry, config.fit_steps, precision)
    if config.compile:
        model.compile()  # in place: names of weights and everything else stay as they are
    average = setup.build_average(config, model)
    optimizer = setup.build_optimizer(config, model)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    folder = setup.experiment_folder(config)
    order = Order(tuple(dataset.rates), len(dataset), config.batch_size, config.accumulate, config.seed, config.model)
    progress = load_state(folder, model, average, optimizer, scaler, order) if config.resume else Progress()
    if progress.epoch >= config.epochs and (folder / "weight_final.pth").is_file():
        print(f"nothing to do: {progress.epoch} epochs are done in {folder}; give more --epochs to go on", flush=True)
        return folder
    settings = setup.save_settings(config, folder)
    journal = Journal(folder, epochs_done=progress.epoch, settings=settings, use_wandb=not config.no_wandb)
    run = Run(
        config, folder, device, precision, dataset, validation, batches, loader, model, average,
        setup.build_loss(config), distillation, optimizer, scaler, progress, order, journal,
    )  # fmt: skip
    print(f"experiment directory: {folder}", flush=True)
    try:
        fit(run)
    finally:
        journal.close()
    return folder


def fit(run: Run) -> None:
    """Epochs until the last, or until asked to stop; every way out leaves a state to continue from."""
    if run.validation is not None and run.progress.epoch < run.config.epochs:
        validate(run.judged, run.validation, run.config, run.precision, batches=2)  # fail now, not after an epoch
    _save_state(run)  # from here on there is something to resume from
    with StopRequest(run.config.max_hours) as stop:
        while run.progress.epoch < run.config.epochs:
            _train_epoch(run, stop)
            if run.progress.batch < len(run.batches):
                _save_state(run)
            else:
                _finish_epoch(run)
            if stop.reason and run.progress.epoch < run.config.epochs:
                print(f"stopped: {stop.reason}. Continue with --resume {run.folder}", flush=True)
                return
    save_checkpoint(run.folder / "weight_final.pth", run.judged, _facts(run, run.journal.rows[-1]))
    print(f"done: {run.folder / 'weight_final.pth'}", flush=True)


def _train_epoch(run: Run, stop: StopRequest) -> None:
    """The rest of one epoch. `run.progress` is at a step's end whenever this returns."""
    setup.training_mode(run.model, freeze=run.config.freeze, keep_statistics=run.config.keep_statistics)
    run.batches.epoch, run.batches.first_batch = run.progress.epoch, run.progress.batch
    total = -(-(len(run.batches) - run.progress.batch) // run.config.accumulate)
    title = f"epoch {run.progress.epoch + 1}/{run.config.epochs}"
    last_save = started = time.monotonic()
    for group in progress_bar(_grouped(run.loader, run.config.accumulate), title, total, unit="step"):
        _step(run, group)
        now = time.monotonic()
        run.progress.seconds += now - started
        started = now
        if stop.reason:
            return
        if now - last_save > 60 * run.config.save_minutes > 0:
            _save_state(run)
            last_save = now


def _step(run: Run, group: list[LatentBatch]) -> None:
    """One optimiser step over one or several batches."""
    epoch = run.progress.epoch + run.progress.batch / len(run.batches)
    factor = learning_rate_factor(
        epoch, epochs=run.config.epochs, warmup=run.config.warmup, schedule=run.config.schedule
    )
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = run.config.lr * factor * parameters["factor"]
    run.optimizer.zero_grad(set_to_none=True)
    for batch in group:
        losses = _losses(run, batch)
        values = _finite_values(losses, run, batch)  # before the weights change
        run.scaler.scale(losses["total"] / len(group)).backward()
        run.progress.add(values, pictures=len(batch.names), batches=1)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not None:
        run.average.update_parameters(run.model)


def _losses(run: Run, batch: LatentBatch) -> dict[str, Tensor]:
    latents = batch.decoded(run.device)
    too_low = batch.boxes[..., 3] - batch.boxes[..., 1] < run.config.min_face
    targets = Targets(batch.boxes, batch.landmarks, batch.valid, batch.ignore | too_low).to(run.device)
    rates = batch.rates.to(run.device, non_blocking=True)
    indices = batch.model_indices.to(run.device, non_blocking=True)
    rows, columns = latents.shape[-2:]
    priors = run.model.priors(rows, columns, run.device)
    with _reading(run), torch.autocast(run.device.type, dtype=run.precision, enabled=run.precision != torch.float32):
        predictions = run.model(latents, rates, indices, neck=run.distillation is not None)
    losses = run.loss(predictions, targets, priors, run.model.priors_per_level(rows, columns))
    weight = run.config.teacher_weight
    if run.distillation is None or batch.pictures is None or not weight:
        return losses
    with torch.autocast(run.device.type, dtype=run.precision, enabled=run.precision != torch.float32):
        seen = run.distillation.look(batch.pictures, run.device)
    taught = run.distillation(predictions["neck"], predictions, *seen)
    return losses | taught | {"total": losses["total"] + weight * sum(taught.values())}


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


def _finite_values(losses: dict[str, Tensor], run: Run, batch: LatentBatch) -> dict[str, float]:
    numbers = torch.stack([loss.detach() for loss in losses.values()]).tolist()  # one transfer
    values = dict(zip(losses, numbers, strict=True))
    if not math.isfinite(values["total"]):
        terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise LatentFaceError(
            f"the loss is not finite in epoch {run.progress.epoch + 1}, batch {run.progress.batch + 1} ({terms}), "
            f"pictures {', '.join(batch.names)}: look at their labels and latents, or lower --lr; the weights up to "
            f"the last epoch are in {run.folder}"
        )
    return values


def _grouped(loader: DataLoader, size: int) -> Iterator[list[LatentBatch]]:
    """Batches in lists of `size`, the last possibly shorter."""
    group: list[LatentBatch] = []
    for batch in loader:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _finish_epoch(run: Run) -> None:
    """Validates, writes weights and metrics, and last of all the state that makes the epoch count as done."""
    progress = run.progress
    epoch = progress.epoch + 1
    row: dict[str, Any] = {
        "epoch": epoch,
        "loss": progress.sums["total"] / progress.pictures,
        **{f"loss_{name}": value / progress.pictures for name, value in progress.sums.items() if name != "total"},
        "lr": run.optimizer.param_groups[-1]["lr"],
        "seconds": progress.seconds,
        "pictures_per_second": progress.pictures / progress.seconds,
    }
    if run.validation is not None and (epoch % run.config.val_every == 0 or epoch == run.config.epochs):
        row["val_ap"] = validate(run.judged, run.validation, run.config, run.precision)
    score = _score(run, row)
    progress.next_epoch()
    facts = _facts(run, row)
    save_checkpoint(run.folder / f"weight_{epoch}.pth", run.judged, facts)
    if score is not None and score > progress.best:
        progress.best = score
        save_checkpoint(run.folder / "weight_best.pth", run.judged, facts)
    run.journal.add(row)
    _save_state(run)
    _print_epoch(run, row)


def _score(run: Run, row: dict[str, Any]) -> float | None:
    """What weight_best.pth is chosen by: mean AP over the rates; without a validation set the loss (as 1 / loss)."""
    if run.validation is None:
        return 1 / max(row["loss"], 1e-9)
    return sum(row["val_ap"].values()) / len(row["val_ap"]) if "val_ap" in row else None


def _print_epoch(run: Run, row: dict[str, Any]) -> None:
    terms = ", ".join(f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("loss_"))
    line = (
        f"epoch {row['epoch']}/{run.config.epochs}  loss {row['loss']:.3f} ({terms})  lr {row['lr']:.2g}  "
        f"{row['seconds']:.0f} s, {row['pictures_per_second']:.1f} pictures/s"
    )
    for rate, ap in row.get("val_ap", {}).items():
        line += f"  val AP@{rate} {ap:.3f}"
    print(line, flush=True)


def _facts(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "codec": run.dataset.codec,
        "rates": list(run.dataset.rates),
        "landmarks": setup.learns_landmarks(run.config, run.dataset),
        "epoch": row["epoch"],
        "metrics": row,
        "validation": setup.validation_protocol(run.validation) if run.validation is not None else None,
        "training": setup.plain_settings(run.config),
    }


def _save_state(run: Run) -> None:
    save_state(run.folder, run.model, run.average, run.optimizer, run.scaler, run.progress, run.order)
