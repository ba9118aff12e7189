"""Every setting of a training run, declared once: command line, YAML, Python API and the record in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentface.data.cache import CACHE_GB, Cache
from latentface.data.mirror import local, local_file
from latentface.data.remote import join
from latentface.data.stores import latent_folder
from latentface.errors import LatentFaceError
from latentface.model.config import (
    BACKBONES,
    BOX_LOSSES,
    BRIDGE_ENTERS,
    CLASS_LOSSES,
    LINEAR_BRIDGES,
    MATCHINGS,
    PRECISIONS,
    RESNETS,
)
from latentface.options import option

SETTINGS_NAME = "config.yaml"  # of an experiment directory
PRETRAINED = "pretrained"  # as --weight

# What a recipe says of each setting that is left open. By AP (records/choices.json) AdamW gained over SGD, the cosine
# 0.4 points over steps at rate 75 with one seed, and the average changed nothing in 200 steps. ATSS gained from a
# fitted entry and is untried from random weights, so `modern` leaves the matching as it was.
RECIPES: dict[str, dict[str, Any]] = {
    "modern": {"optimizer": "adamw", "schedule": "cosine", "average": 0.998},
    "retinaface": {"optimizer": "sgd", "schedule": "step", "average": 0.0},
}
# `modern`'s bridges where they are other than the documented one: of light and resnet18 better and cheaper
# (records/choices.json), of the larger ResNets by likeness.
MODERN_BRIDGES = {**dict.fromkeys(RESNETS, "layer3"), "light": "shuffle"}
PROJECTION_OPEN, MODERN_PROJECTION = -1, 128
LEFT_OPEN: dict[str, Any] = {"bridge": "", "projection": PROJECTION_OPEN, "precision": "auto", "workers": -1}
"""Values that leave a setting to be settled as a run begins; the run's own settings say how it was."""
OF_THE_MACHINE = ("device", "workers", "max_hours", "save_minutes", "cache_dir", "cache_gb", "no_wandb", "tensorboard")
"""Settings that a run may go on with otherwise: what is learnt does not depend on them."""


@dataclass
class TrainConfig:
    """Trains RetinaFace on latents and writes an experiment directory."""

    dataset_root: str = option(
        ".", "folder that holds train/ and val/, each with latent/ and labels.txt or packed; or its URL, s3://..."
    )
    epochs: int = option(20, "number of epochs; 0 with --fit_entry: only the entry, as weight_final.pth")
    batch_size: int = option(8, "pictures per batch")
    lr: float = option(0.001, "initial learning rate")
    model: str = option("resnet50", "backbone", choices=BACKBONES)
    device: str = option("", "e.g. cuda:0 or cpu; empty: a GPU where there is one")
    no_wandb: bool = option(False, "do not log to Weights & Biases")
    tensorboard: bool = option(False, "write event files for TensorBoard into the experiment directory")
    freeze: bool = option(False, "keep the backbone's weights as they are")
    weight: str = option(
        "", "checkpoint or state dict to start from; pretrained: the detector that comes along, a mobilenet"
    )

    use_latent: bool = option(
        False, "accepted for the documented command; latents are always used", group="latents and labels"
    )
    latent_dir: str = option("", "training latents, in place of <dataset_root>/train/latent")
    val_latent_dir: str = option("", "validation latents, in place of <dataset_root>/val/latent")
    train_label_file: str = option("", "training labels, in place of <dataset_root>/train/labels.txt")
    val_label_file: str = option("", "validation labels, in place of <dataset_root>/val/labels.txt")
    latent_type: str = option("latent_75.npy", "which file of each picture to read")
    rates: tuple[int, ...] = option((), "several rates, in place of --latent_type: each epoch draws one per picture")
    min_face: float = option(
        0.0, "leave faces lower than so many picture pixels out of the loss, as neither face nor background"
    )
    crop: int = option(0, "train on random squares of so many cells a side; 0: whole latents")

    order: str = option(
        "auto",
        "pictures of an epoch: drawn from the whole set, or by windows of shards, which auto takes for packed URLs",
        choices=("auto", "pictures", "shards"),
        group="large datasets, and datasets behind URLs",
    )
    window: int = option(8, "shards that are mixed at a time, of an order by shards")
    cache_dir: str = option("", "folder for what is fetched from URLs; empty: latentface in your cache folder")
    cache_gb: float = option(CACHE_GB, "most that this folder may hold, in GB; shared by all processes that use it")

    stride: int = option(16, "picture pixels per cell, where no manifest says it", group="coordinates")
    label_frame: str = option(
        "picture",
        "coordinates of the labels: picture pixels, or pixels of the photograph before scaling (needs sizes)",
        choices=("picture", "source"),
    )
    image_sizes: str = option(
        "", "JSON of picture name -> [width, height] of the photographs, for --label_frame source"
    )
    image_dir: str = option("", "the photographs themselves, to read their sizes from; implies --label_frame source")
    label_fit: str = option("stretch", "how photographs were brought to the coded size", choices=("stretch", "pad"))

    backbone_weights: str = option(
        "imagenet", "imagenet, none, or the path of a torchvision state dict", group="network"
    )
    prior_sizes: tuple[int, ...] = option(
        (16, 32, 64, 128, 256, 512), "sides of the priors, picture pixels: two each for strides 8, 16 and 32"
    )
    bridge: str = option(
        "",
        "from latent to backbone; empty: that of --weight, else the documented bilinear, but by recipe modern without "
        "--fit_entry layer3 for a ResNet and shuffle for light",
        choices=("", *BRIDGE_ENTERS),
    )
    projection: int = option(
        PROJECTION_OPEN,
        "channels of a linear map of each codec model's own before the bridge; 0: none, or the fewest that a latent "
        "has where rates differ in that; -1: as --weight has it, else by recipe modern 128 for several codec models, "
        "else 0",
    )
    channels_read: tuple[int, ...] = option(
        (), "each batch reads only one of these numbers of channels, the strongest: for latents that come in parts"
    )
    teacher: str = option(
        "", "detector of pictures to learn from besides the labels: a twin, or RetinaFace mnet0.25", group="a teacher"
    )
    photographs: str = option(
        "", "folder of the encoded photographs, which the teacher looks at; or a split of pixels with the same views"
    )
    teacher_weight: float = option(1.0, "of the teacher's loss beside the labels'; 0: none of it")
    fit_entry: int = option(
        0,
        "start as the teacher, of the same --model: its weights, and an entry fitted on so many pictures to what the "
        "teacher sees there, projection and residual or refined bridge by least squares, e.g. 1000; 0: no; any number "
        "with --weight, of a student that started so: only --fit_steps",
    )
    fit_steps: int = option(600, "batches of gradient descent on the entry alone, of --fit_entry")
    entry_lr: float = option(1.0, "learning rate of projection and bridge, times --lr: a fitted entry wants 0.2")
    keep_statistics: bool = option(False, "batch norm behind the entry keeps the statistics that it starts with")
    recipe: str = option(
        "modern",
        "optimiser, schedule, average and bridge: newer ones, or exactly RetinaFace's and the documented bridge",
        choices=tuple(RECIPES),
        group="loss and optimiser",
    )
    average: float | None = option(
        None, "validate and keep a moving average of the weights, of this decay per step; 0: none (modern: 0.998)"
    )
    loss_weights: tuple[float, ...] = option(
        (1.0, 2.0, 1.0),
        "of classes, boxes and landmarks, of the labels' loss and the teacher's",
    )
    matching: str = option(
        "iou", "priors for each face: by IoU 0.35 as RetinaFace, or by a threshold of its own (ATSS)", choices=MATCHINGS
    )
    box_loss: str = option("smooth_l1", "of boxes: smooth L1 as RetinaFace, or of their overlap", choices=BOX_LOSSES)
    class_loss: str = option(
        "mining", "of scores: seven hard negatives a face as RetinaFace, or quality focal loss", choices=CLASS_LOSSES
    )
    optimizer: str = option("", "sgd with momentum 0.9 (recipe retinaface) or adamw (modern)", choices=("sgd", "adamw"))
    schedule: str = option(
        "",
        "learning rate after the warm-up: step, tenths at 76 and 88 % of the epochs (retinaface), or cosine (modern)",
        choices=("step", "cosine"),
    )
    warmup: float = option(0.05, "part of the epochs over which the learning rate rises to --lr")
    weight_decay: float = option(5e-4, "weight decay")
    accumulate: int = option(1, "batches per optimiser step")
    sync_bn: bool = option(False, "of several processes: batch norm over the whole batch, not each process's part")
    precision: str = option(
        "auto",
        "auto: mixed on GPUs and on CPUs with bfloat16 instructions, float32 elsewhere",
        choices=("auto", *PRECISIONS),
        group="speed",
    )
    compile: bool = option(False, "compile the network by torch.compile: minutes at the start, faster steps on GPUs")

    out: str = option("", "experiment directory; empty: a new one under runs/", group="the run")
    resume: str = option("", "experiment directory to continue, with its settings", settings_file=SETTINGS_NAME)
    max_hours: float = option(0.0, "save and stop after so many hours; 0: no limit")
    save_minutes: float = option(10.0, "save the state for --resume this often inside an epoch; 0: at its end only")
    val_every: int = option(1, "validate every so many epochs, and after the last")
    workers: int = option(-1, "processes that read latents; -1: one per core (at most 8) for a GPU, fewer on a CPU")
    seed: int = option(0, "seed of weights, order and crops")
    no_check: bool = option(False, "train whatever a first look at the dataset finds (latentface check)")

    def __post_init__(self) -> None:
        self._settle()
        for name in ("epochs", "batch_size", "accumulate", "val_every", "stride", "window"):
            least = 0 if name == "epochs" and self.fit_entry else 1
            if getattr(self, name) < least:
                other = ", or 0 with --fit_entry" if name == "epochs" and not self.fit_entry else ""
                raise LatentFaceError(f"--{name} {getattr(self, name)}: has to be {least} or more{other}")
        if len(self.loss_weights) != 3 or not min(self.loss_weights) >= 0:
            raise LatentFaceError(f"--loss_weights {self.loss_weights}: three numbers, none negative")
        if self.average is None or not 0 <= self.average < 1:
            raise LatentFaceError(f"--average {self.average}: a decay per step, 0 or more and under 1")
        if bool(self.teacher) != bool(self.photographs):
            raise LatentFaceError("--teacher and --photographs belong together: a teacher looks at the pictures")
        if self.fit_entry and not self.teacher:
            raise LatentFaceError("--fit_entry needs --teacher")
        if self.fit_entry and self.weight and not self.fit_steps:
            raise LatentFaceError("--fit_entry with --weight does --fit_steps only: give 1 or more")
        if self.fit_entry and self.own_bridge not in LINEAR_BRIDGES and not self.fit_steps:
            raise LatentFaceError(f"--fit_entry: a {self.own_bridge} bridge learns in --fit_steps only: give 1 or more")
        if self.model not in RESNETS:  # the others start from random weights or --weight
            given = self.backbone_weights
            if given not in ("imagenet", "none") and not self.resume:  # earlier versions ignored it
                raise LatentFaceError(f"--backbone_weights {given}: goes with a ResNet, not {self.model}: leave it out")
            self.backbone_weights = "none"
        if self.warmup > 1:
            raise LatentFaceError(f"--warmup {self.warmup}: a part of the epochs, 0 to 1")
        if self.projection < PROJECTION_OPEN:
            raise LatentFaceError(f"--projection {self.projection}: a number of channels, 0: none, or -1: left open")
        if any(count < 1 for count in self.channels_read):
            raise LatentFaceError(f"--channels_read {self.channels_read}: numbers of channels, 1 or more each")
        if len(self.prior_sizes) != 6 or min(self.prior_sizes) < 1:
            raise LatentFaceError(f"--prior_sizes {self.prior_sizes}: give six sides of 1 pixel or more")
        numbers = (
            "lr",
            "min_face",
            "crop",
            "warmup",
            "weight_decay",
            "max_hours",
            "save_minutes",
            "seed",
            "fit_entry",
            "fit_steps",
            "teacher_weight",
            "entry_lr",
        )
        for name in numbers:
            if not getattr(self, name) >= 0:  # refuses NaN too
                raise LatentFaceError(f"--{name} {getattr(self, name)}: cannot be negative")

    def _settle(self) -> None:
        """What is left open, as the recipe says."""
        if self.recipe not in RECIPES:
            raise LatentFaceError(f"--recipe {self.recipe}: there are {', '.join(RECIPES)}")
        for name, value in RECIPES[self.recipe].items():
            if getattr(self, name) in (None, ""):
                setattr(self, name, value)

    @property
    def own_bridge(self) -> str:
        """The bridge of a run without `--weight`: `--bridge`, else what the recipe says."""
        documented = self.recipe == "retinaface" or self.fit_entry  # `layer3` has no twin to start as
        return self.bridge or ("bilinear" if documented else MODERN_BRIDGES.get(self.model, "bilinear"))

    @property
    def used_rates(self) -> tuple[int, ...]:
        """The rates to train on: `--rates`, else the one that `--latent_type` names."""
        if self.rates:
            return tuple(dict.fromkeys(self.rates))
        digits = self.latent_type.removeprefix("latent_").removesuffix(".npy")
        if not digits.isdecimal():
            raise LatentFaceError(f"--latent_type {self.latent_type}: expected a name like latent_75.npy")
        return (int(digits),)

    def split_paths(self, split: str) -> tuple[Path, Path | None]:
        """(latent directory, label file or None: look for it) of `train` or `val`."""
        latents, labels = (
            (self.latent_dir, self.train_label_file) if split == "train" else (self.val_latent_dir, self.val_label_file)
        )
        cache = Cache.of(self.cache_dir, self.cache_gb)
        latent_dir = latents or latent_folder(local(join(self.dataset_root, split), cache))
        return local(latent_dir, cache), local_file(labels, cache) if labels else None
