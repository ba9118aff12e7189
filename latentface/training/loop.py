"""Training, to be read from top to bottom: `train` = set up, then `fit`.

An experiment directory holds config.yaml, metrics.jsonl, curves.png, weight_<epoch>.pth, weight_best.pth (by AP on
val), at the end weight_final.pth, and state.pth for `--resume`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from latentface.data.batches import EpochBatches
from latentface.data.reading import deaths_explained
from latentface.errors import LatentFaceError
from latentface.machine import keep_memory
from latentface.model.checkpoint import is_of_epoch, save_checkpoint
from latentface.model.config import LINEAR_BRIDGES
from latentface.model.retinaface import RetinaFace
from latentface.progress import progress as progress_bar
from latentface.training import setup
from latentface.training.config import PROJECTION_OPEN, TrainConfig
from latentface.training.entry import DESCENT_RATE, RATE_FROM_RANDOM, descend, start_as
from latentface.training.folder import changes, experiment_folder, plain_settings, save_settings
from latentface.training.journal import Journal
from latentface.training.ranks import Ranks, joined
from latentface.training.shared_norm import share_statistics
from latentface.training.start import weight_file
from latentface.training.state import Progress, load_state, save_state
from latentface.training.step import Run, take_step
from latentface.training.stopping import StopRequest
from latentface.training.validation import try_validation, validate
from latentface.workers import in_parts

FINAL_NAME = "weight_final.pth"


def train(config: TrainConfig) -> Path:
    """Trains as `config` says and returns the experiment directory; under torchrun with the other processes."""
    stop = StopRequest(config.max_hours)  # the time counts from here
    keep_memory()
    with joined() as ranks:
        return _train(config, stop, ranks)


def _train(config: TrainConfig, stop: StopRequest, ranks: Ranks) -> Path:
    torch.manual_seed(config.seed)
    device = ranks.device(config.device)
    config = setup.settled(config, device, ranks)
    ranks.agree("--precision", config.precision)
    precision = setup.pick_precision(config.precision, device)
    dataset, validation = setup.open_datasets(config)
    setup.agree_on_sets(ranks, dataset, validation)
    setup.describe(config, dataset, validation, device)
    orders = [setup.build_order(config, one) if one else None for one in (dataset, validation)]
    if ranks.first:
        setup.check_data(config, dataset, validation, orders)
    model = setup.build_model(config, dataset, orders[0], ranks).to(device)
    if config.projection == PROJECTION_OPEN:
        config = replace(config, projection=model.config.projection)  # a resumed run keeps it
    distillation = setup.build_distillation(config, model, device, ranks)
    batches = EpochBatches(len(dataset), config.batch_size, config.seed, orders[0], ranks.rank, ranks.size)
    loader = setup.build_loader(config, dataset, batches, device)
    with experiment_folder(config, ranks) as folder, deaths_explained():
        if config.fit_entry and distillation is not None and not config.resume:
            if ranks.first:
                whole = EpochBatches(len(dataset), config.batch_size, config.seed, orders[0])
                alone = setup.build_loader(config, dataset, whole, device)
                _fit_entry(config, distillation.teacher, model, alone, precision)
            ranks.copy_first(model)
        if config.sync_bn and ranks.size > 1:
            share_statistics(model)
        if config.compile:
            model.compile()  # in place: names of weights and everything else stay as they are
        average = setup.build_average(config, model)
        optimizer = setup.build_optimizer(config, model)
        scaler = setup.build_scaler(device, precision)
        order = setup.fixed_order(config, dataset, orders[0])
        progress = load_state(folder, model, average, optimizer, scaler, order) if config.resume else Progress()
        if progress.epoch >= config.epochs and is_of_epoch(folder / FINAL_NAME, progress.epoch):
            print(f"nothing to do: {progress.epoch} epochs are done in {folder}; give more --epochs to go on")
            return folder
        print(f"experiment directory: {folder}", flush=True)
        if config.resume:
            _say_going_on(config, progress)
        journal = _open_journal(config, folder, progress) if ranks.first else None
        run = Run(
            config, ranks, folder, device, precision, dataset, validation, batches, loader, model,
            ranks.spread(model, device), average, setup.build_loss(config, ranks), distillation, optimizer, scaler,
            progress, order, journal,
        )  # fmt: skip
        try:
            fit(run, stop)
        finally:
            if journal is not None:
                journal.close()
        return folder


def _fit_entry(
    config: TrainConfig, teacher: RetinaFace, model: RetinaFace, loader: DataLoader, precision: torch.dtype
) -> None:
    """What `--fit_entry` asks for, see `entry.py`; weights that were given have an entry already."""
    rate, then = DESCENT_RATE, f"descends for {config.fit_steps} batches"
    if config.weight:
        print(f"the entry of {weight_file(config)} {then}", flush=True)
    else:
        print(f"the entry is fitted on {config.fit_entry} pictures, then {then}", flush=True)
        start_as(teacher, model, loader, config.fit_entry)
        rate = DESCENT_RATE if config.bridge in LINEAR_BRIDGES else RATE_FROM_RANDOM
    descend(teacher, model, loader, config.fit_steps, precision, rate)


def _say_going_on(config: TrainConfig, progress: Progress) -> None:
    """While the run's folder still has the settings that it was stopped with."""
    print(f"going on after epoch {progress.epoch} of {config.epochs}", flush=True)
    if changed := changes(config):
        print(f"otherwise than before: {', '.join(changed)}", flush=True)


def _open_journal(config: TrainConfig, folder: Path, progress: Progress) -> Journal:
    return Journal(
        folder,
        epochs_done=progress.epoch,
        settings=save_settings(config, folder),
        use_wandb=not config.no_wandb,
        use_tensorboard=config.tensorboard,
    )


def fit(run: Run, stop: StopRequest) -> None:
    """Epochs until the last, or until asked to stop; every way out leaves a state to continue from."""
    if run.validation is not None and run.progress.epoch < run.config.epochs:
        try_validation(run.judged, run.validation, run.config, run.precision)
    _save_state(run)  # from here on there is something to resume from
    with stop, run.ranks.explaining(f"continue with --resume {run.folder}"):
        while run.progress.epoch < run.config.epochs:
            if not (_train_epoch(run, stop) and _finish_epoch(run, stop)):
                _save_state(run)
                reason = stop.reason or "another process was asked to stop"
                print(f"stopped: {reason}. Continue with --resume {run.folder}", flush=True)
                return
    if run.journal is not None:
        last = run.journal.rows[-1] if run.journal.rows else {"epoch": run.progress.epoch}  # only the entry was fitted
        save_checkpoint(run.folder / FINAL_NAME, run.judged, _facts(run, last))
    print(f"done: {run.folder / FINAL_NAME}", flush=True)


def _train_epoch(run: Run, stop: StopRequest) -> bool:
    """The rest of one epoch; False where it was stopped. `run.progress` is at a step's end whenever this returns."""
    setup.training_mode(run.model, freeze=run.config.freeze, keep_statistics=run.config.keep_statistics)
    run.batches.epoch, run.batches.first_batch = run.progress.epoch, run.progress.batch
    total = -(-(len(run.batches) - run.progress.batch) // run.config.accumulate)
    title = f"epoch {run.progress.epoch + 1}/{run.config.epochs}"
    last_save = started = time.monotonic()
    for group in progress_bar(in_parts(run.loader, run.config.accumulate), title, total, unit="step"):
        take_step(run, group)
        now = time.monotonic()
        run.progress.seconds += now - started
        started = now
        if run.ranks.any(bool(stop.reason)):
            return False
        if now - last_save > 60 * run.config.save_minutes > 0 and not run.progress.bad_in_a_row:
            _save_state(run)
            last_save = now
    return True


def _finish_epoch(run: Run, stop: StopRequest) -> bool:
    """Validates, writes weights and metrics, and last of all the state that makes the epoch count as done.

    False where it was stopped in the validation, which will be done anew.
    """
    progress = run.progress
    epoch = progress.epoch + 1
    row = _row(run)
    if run.validation is not None and (epoch % run.config.val_every == 0 or epoch == run.config.epochs):
        _save_state(run)  # a validation may take long
        run.ranks.copy_first(run.judged)  # batch statistics are each process's own
        row["val_ap"] = validate(run.judged, run.validation, run.config, run.precision, run.ranks, stop)
        if run.ranks.any(bool(stop.reason)):
            return False
    progress.next_epoch()
    if run.journal is not None:
        _write_epoch(run, run.journal, row)
    return True


def _write_epoch(run: Run, journal: Journal, row: dict[str, Any]) -> None:
    score, facts = _score(run, row), _facts(run, row)
    save_checkpoint(run.folder / f"weight_{row['epoch']}.pth", run.judged, facts)
    if score is not None and score > run.progress.best:
        run.progress.best = score
        save_checkpoint(run.folder / "weight_best.pth", run.judged, facts)
    journal.add(row)
    _save_state(run)
    _print_epoch(run, row)


def _row(run: Run) -> dict[str, Any]:
    """What is written down of an epoch whose last step is done."""
    progress = run.progress
    if not progress.pictures:
        raise LatentFaceError(
            f"every step of epoch {progress.epoch + 1} had a loss that is not finite: look at labels and latents, "
            f"lower --lr or give --precision float32; weights of earlier epochs are in {run.folder}"
        )
    return {
        "epoch": progress.epoch + 1,
        "loss": progress.sums["total"] / progress.pictures,
        **{f"loss_{name}": value / progress.pictures for name, value in progress.sums.items() if name != "total"},
        "lr": run.optimizer.param_groups[-1]["lr"],
        "skipped_steps": progress.skipped,
        "seconds": progress.seconds,
        "pictures_per_second": progress.pictures / progress.seconds,
    }


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
    if row["skipped_steps"]:
        line += f"  {row['skipped_steps']} steps skipped, their loss or gradients were not finite"
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
        "training": plain_settings(run.config),
    }


def _save_state(run: Run) -> None:
    """By the first process; what the others hold is the same."""
    if run.ranks.first:
        save_state(run.folder, run.model, run.average, run.optimizer, run.scaler, run.progress, run.order)
