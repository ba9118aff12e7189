"""Settings -> the parts of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from latentface.data.batches import EpochBatches, collate
from latentface.data.check import quick_check
from latentface.data.check_files import Place
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.mirror import shown
from latentface.data.order import ShardOrder
from latentface.data.packed import PackedStore
from latentface.data.reading import load_batches
from latentface.data.remote_stores import RemotePack
from latentface.data.sizes import LabelFrame, label_frame
from latentface.data.statistics import measure_statistics
from latentface.data.stores import find_labels
from latentface.errors import LatentFaceError
from latentface.machine import cores, multiplies_bfloat16
from latentface.model.config import ModelConfig
from latentface.model.faces import Thresholds
from latentface.model.loss import MultiTaskLoss
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace
from latentface.training.config import MODERN_PROJECTION, PROJECTION_OPEN, TrainConfig
from latentface.training.distillation import Distillation
from latentface.training.entry import OWN_PARTS, refuse_unlike
from latentface.training.folder import has_settings
from latentface.training.ranks import Ranks, restarted
from latentface.training.start import load_start, load_weight, started
from latentface.training.state import STATE_NAME, Order
from latentface.training.teacher import load_teacher
from latentface.words import counted


def settled(config: TrainConfig, device: torch.device, ranks: Ranks) -> TrainConfig:
    """What is left open is decided once, so that a resumed run keeps its arithmetic.

    A run that was stopped before its first state is begun again, in its folder; one that torchrun starts anew with the
    same settings goes on.
    """
    if config.resume and not (Path(config.resume) / STATE_NAME).is_file():
        print(f"{config.resume}: stopped before anything was saved, so it begins again")
        config = replace(config, out=config.resume, resume="")
    config = started(config) if config.weight and not config.resume else replace(config, bridge=config.own_bridge)
    precision = str(pick_precision(config.precision, device)).removeprefix("torch.")
    config = replace(config, precision=precision, workers=pick_workers(config.workers, device, ranks))
    if restarted() and config.out and (Path(config.out) / STATE_NAME).is_file() and has_settings(config):
        print(f"{config.out}: started anew, so it goes on")
        return replace(config, resume=config.out)
    return config


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on GPUs and CPUs that have units for it, float16 with loss scaling on other GPUs (T4, P100),
    float32 on other CPUs."""
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if device.type != "cuda":
        return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16() else torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def pick_workers(workers: int, device: torch.device, ranks: Ranks) -> int:
    """-1: for a GPU one per core, at most 8; on a CPU a quarter of the cores, as the network needs them itself.

    Of several processes each gets its part of the machine's cores.
    """
    if workers >= 0:
        return workers
    own = cores() // ranks.local_size
    return own // 4 if device.type == "cpu" else min(own, 8)


def open_datasets(
    config: TrainConfig,
) -> tuple[NestedLatentWiderFaceDataset, NestedLatentWiderFaceDataset | None]:
    """Training and validation set; the latter None, with a line, where the tree has none."""
    frame = label_frame(config.label_frame, config.image_sizes, config.image_dir, config.label_fit)
    train = _open_split(config, "train", frame, config.crop)
    latent_dir, _ = config.split_paths("val")
    if not latent_dir.is_dir():
        if config.val_latent_dir:
            raise LatentFaceError(f"--val_latent_dir {shown(latent_dir)}: no such folder")
        print(f"no validation: {shown(latent_dir)} is not there; weight_best.pth follows the training loss")
        return train, None
    return train, _open_split(config, "val", frame, crop=0)


def _open_split(config: TrainConfig, split: str, frame: LabelFrame, crop: int) -> NestedLatentWiderFaceDataset:
    latent_dir, labels = config.split_paths(split)
    if not latent_dir.is_dir():
        raise LatentFaceError(
            f"{shown(latent_dir)}: no such folder; --dataset_root has to hold "
            f"{split}/latent/<picture>/{config.latent_type}"
        )
    dataset = NestedLatentWiderFaceDataset(
        latent_dir,
        labels or find_labels(latent_dir),
        config.used_rates,
        crop,
        config.seed,
        frame,
        config.stride,
        Path(config.photographs) if config.photographs and split == "train" else None,
    )
    if not any(len(picture.labels.boxes) for picture in dataset.pictures):
        raise LatentFaceError(f"{dataset.label_file}: not one face in it; look at its format")
    return dataset


def agree_on_sets(
    ranks: Ranks, train: NestedLatentWiderFaceDataset, validation: NestedLatentWiderFaceDataset | None
) -> None:
    """Raises LatentFaceError where the processes of a run do not see the same pictures at the same rates."""
    for name, dataset in (("train", train), ("val", validation)):
        ranks.agree(f"the set {name}", dataset and (dataset.rates, [picture.name for picture in dataset.pictures]))


def describe(
    config: TrainConfig,
    train: NestedLatentWiderFaceDataset,
    validation: NestedLatentWiderFaceDataset | None,
    device: torch.device,
) -> None:
    """What will be trained on what, and everything odd about the data, before the first second is spent."""
    entry = "on pixels" if train.stride == 1 else f"{config.bridge} bridge"
    print(f"{config.model}, {entry}, on {device} in {config.precision}; rates {', '.join(map(str, train.rates))}")
    for split, dataset in (("train", train), ("val", validation)):
        if dataset is not None:
            faces = sum(int((~picture.labels.ignore).sum()) for picture in dataset.pictures)
            size = f"{counted(len(dataset), 'picture')}, {counted(faces, 'face')}"
            print(f"{split}: {size} ({shown(dataset.label_file)})")
            for note in dataset.notes:
                print(f"  note: {note}")
    if not learns_landmarks(config, train):
        print("  note: no label has five landmarks: the model will find faces without them")
    if validation is not None:
        print(f"val AP: {', '.join(f'{name} {value}' for name, value in validation_protocol(validation).items())}")


def build_order(config: TrainConfig, dataset: NestedLatentWiderFaceDataset) -> ShardOrder | None:
    """By windows of shards where that is asked for, or wanted as shards come by a network; else None.

    Raises LatentFaceError where a cache cannot hold the window that is read, the next one, and what slow readers have
    of the last one: shards would be fetched again and again.
    """
    store = dataset.store
    if config.order == "pictures" or (config.order == "auto" and not isinstance(store, RemotePack)):
        return None
    if not isinstance(store, PackedStore):
        raise LatentFaceError(f"--order shards: {shown(dataset.latent_dir)} is not packed; latentface pack does that")
    if isinstance(store, RemotePack):
        largest = sorted((shard.bytes for shard in store.info.shards), reverse=True)
        needed, there = 3 * sum(largest[: config.window]), store.cache.limit
        if min(needed, sum(largest)) > there:
            raise LatentFaceError(
                f"--cache_gb {config.cache_gb:g}: three times {config.window} shards of up to "
                f"{largest[0] / 1e9:.3g} GB are needed; give {needed / 1e9:.3g} or more, or a smaller --window"
            )
    return ShardOrder(dataset.shards, config.seed, config.window)


def fixed_order(config: TrainConfig, dataset: NestedLatentWiderFaceDataset, order: ShardOrder | None) -> Order:
    """What a run that is resumed inside an epoch may not change."""
    return Order(
        rates=tuple(dataset.rates),
        pictures=len(dataset),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=config.seed,
        network=config.model,
        window=order.window if order else 0,
        codec=dataset.codec,
    )


def _at_hand(dataset: NestedLatentWiderFaceDataset, order: ShardOrder | None) -> tuple[str, ...]:
    """Pictures to take samples of: all, or those that come first where reading all over the set is dear."""
    chosen = sorted(order.first()) if order else range(len(dataset))
    return tuple(dataset.pictures[index].name for index in chosen)


def check_data(
    config: TrainConfig,
    train: NestedLatentWiderFaceDataset,
    validation: NestedLatentWiderFaceDataset | None,
    orders: Sequence[ShardOrder | None] = (None, None),
) -> None:
    """A first look at both sets, some seconds; LatentFaceError for what training would only learn garbage from."""
    if config.no_check:
        return
    sets = {"train": train} | ({"val": validation} if validation else {})
    places = [
        Place(name, dataset.latent_dir, dataset.label_file, _at_hand(dataset, order))
        for (name, dataset), order in zip(sets.items(), orders, strict=False)
    ]
    for line in quick_check(places, train.frame, train.rates, train.stride):
        print(f"  {line}")


def learns_landmarks(config: TrainConfig, train: NestedLatentWiderFaceDataset) -> bool:
    """Whether labels or a teacher show any."""
    return train.has_landmarks or bool(
        config.teacher and (config.teacher_weight or (config.fit_entry and not config.weight))
    )


def validation_protocol(dataset: NestedLatentWiderFaceDataset) -> dict[str, Any]:
    """What the validation AP of a run means."""
    return {
        "protocol": "all-point AP at IoU 0.5, all faces, whole latents",
        "set": shown(dataset.store.split),
        "pictures": len(dataset),
        "codec": dataset.codec,
        **asdict(Thresholds()),
    }


def build_model(
    config: TrainConfig, dataset: NestedLatentWiderFaceDataset, order: ShardOrder | None, ranks: Ranks
) -> RetinaFace:
    """A model whose normalisation is measured on the training set; weights from ImageNet or from `--weight`.

    The first process measures for all. Of a set of pixels (stride 1): the picture-input twin.
    """
    pixels = dataset.stride == 1
    kind = "picture" if pixels else "latent"
    start = load_start(config, kind) if config.weight and not config.resume else None
    statistics = None if pixels else ranks.by_first(lambda: _statistics(dataset, order))
    model_config = ModelConfig(
        backbone=config.model,
        bridge=config.bridge,
        input=kind,
        channels=3 if statistics is None else statistics.mean.shape[1],
        stride=dataset.stride,
        prior_sizes=tuple(zip(config.prior_sizes[::2], config.prior_sizes[1::2], strict=True)),
        projection=_projection(config, statistics),
    )
    replaced = bool(config.weight or config.resume)  # nothing of ImageNet would be left
    model = RetinaFace(model_config, statistics, "none" if replaced else config.backbone_weights)
    if start is not None:
        load_weight(start, model, dataset.codec)
    return model


def _projection(config: TrainConfig, statistics: LatentStatistics | None) -> int:
    """As set; where codec models differ in their number of channels there has to be one, and `modern` takes one
    wherever there are several."""
    if statistics is None:
        return max(config.projection, 0)
    counts = sorted(set(statistics.channels))
    models = len({*statistics.rate_rows, *statistics.index_rows})  # that pictures are made by: there may be more rows
    wanted = config.recipe == "modern" and config.projection == PROJECTION_OPEN and models > 1
    if config.projection > 0 or (len(counts) < 2 and not wanted):
        return max(config.projection, 0)
    width = min(counts[0], MODERN_PROJECTION) if wanted else counts[0]
    listed = " and ".join(map(str, counts))
    print(f"latents of {listed} channels: each codec model gets a linear map of its own to {width} (--projection)")
    return width


def _statistics(dataset: NestedLatentWiderFaceDataset, order: ShardOrder | None) -> LatentStatistics:
    measured = measure_statistics(dataset, among=_at_hand(dataset, order))
    return LatentStatistics(
        torch.from_numpy(measured.mean),
        torch.from_numpy(measured.deviation),
        measured.rates,
        measured.rate_rows,
        measured.indices,
        measured.index_rows,
        measured.channels,
    )


def build_distillation(
    config: TrainConfig, model: RetinaFace, device: torch.device, ranks: Ranks
) -> Distillation | None:
    if not config.teacher:
        return None
    distillation = Distillation(load_teacher(config.teacher).to(device), config.loss_weights, ranks.add_up)
    distillation.check(model.config)
    if config.fit_entry:
        refuse_unlike(distillation.teacher, model)
    return distillation


def build_loss(config: TrainConfig, ranks: Ranks) -> MultiTaskLoss:
    return MultiTaskLoss(
        weights=config.loss_weights,
        matching=config.matching,
        box_loss=config.box_loss,
        class_loss=config.class_loss,
        add_up=ranks.add_up,
    )


def build_average(config: TrainConfig, model: RetinaFace) -> AveragedModel | None:
    """The moving average of the weights, batch statistics included."""
    if not config.average:
        return None
    return AveragedModel(model, multi_avg_fn=partial(_averaged, config.average), use_buffers=True)


def _averaged(decay: float, averages: list[Tensor], latest: list[Tensor], steps: Tensor | int) -> None:
    """In place, all tensors of a type together: a handful of calls in place of one a tensor, each for a GPU to wait on.

    Early steps count less, so that short runs do not keep what they started with; whole numbers are no averages.
    """
    if not averages[0].is_floating_point():
        torch._foreach_copy_(averages, latest)
        return
    steps = int(steps)
    torch._foreach_lerp_(averages, latest, 1 - min(decay, (1 + steps) / (10 + steps)))


def build_optimizer(config: TrainConfig, model: RetinaFace) -> torch.optim.Optimizer:
    if config.freeze:
        model.backbone.requires_grad_(False)
    parameters: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameters[name.startswith(OWN_PARTS)].append(parameter)
    groups = [{"params": parameters[True], "factor": config.entry_lr}, {"params": parameters[False], "factor": 1.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay, fused=True)
    for parameter in (p for group in groups for p in group["params"]):  # type: ignore[attr-defined]
        # Else the fused step takes whatever is in memory for the momentum where the scaler skips the first one.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def build_scaler(device: torch.device, precision: torch.dtype) -> torch.amp.GradScaler:
    """Scales float16's gradients; in every precision it skips a step whose gradients are not finite.

    Outside float16 the scale only counts: it starts at 1, every skipped step halves it, which changes no other bit.
    """
    if precision == torch.float16:
        return torch.amp.GradScaler(device.type)
    return torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=2**31 - 1)


def training_mode(model: RetinaFace, *, freeze: bool, keep_statistics: bool = False) -> None:
    """Training mode; a frozen backbone keeps its batch statistics too, `keep_statistics`: all but the entry do."""
    model.train()
    if freeze:
        model.backbone.eval()
    if keep_statistics:
        for part in (model.backbone, model.neck, model.context):
            part.eval()


def build_loader(
    config: TrainConfig, dataset: NestedLatentWiderFaceDataset, batches: EpochBatches, device: torch.device
) -> DataLoader:
    pin = device.type == "cuda"
    return load_batches(dataset, collate, config.workers, batch_sampler=batches, pin_memory=pin)
