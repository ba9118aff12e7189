"""What a run leaves behind beside its weights: metrics.jsonl and a picture of its curves; Weights & Biases and
TensorBoard get the same numbers and picture."""

from __future__ import annotations

import json
import os
import warnings
from itertools import cycle
from pathlib import Path
from typing import Any

from latentface.errors import LatentFaceError
from latentface.evaluation.report import STYLES
from latentface.files import replacing

Row = dict[str, Any]


class Journal:
    """One row per epoch. Rows of epochs that a resumed run will repeat are dropped."""

    def __init__(
        self, folder: Path, *, epochs_done: int, settings: Row, use_wandb: bool, use_tensorboard: bool = False
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.picture = folder / "curves.png"
        self.rows = [row for row in read_rows(self.path) if row["epoch"] <= epochs_done]
        _write(self.path, self.rows)
        self.wandb = _start_wandb(folder, settings) if use_wandb else None
        self.tensorboard = _start_tensorboard(folder, epochs_done) if use_tensorboard else None

    def add(self, row: Row) -> None:
        self.rows.append(row)
        _write(self.path, self.rows)
        draw_curves(self.rows, self.picture)
        if self.wandb is not None:
            import wandb

            self.wandb.log(row | {"curves": wandb.Image(str(self.picture))})
        if self.tensorboard is not None:
            _show(self.tensorboard, row, self.picture)

    def close(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()
        if self.tensorboard is not None:
            self.tensorboard.close()


def read_rows(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise LatentFaceError(f"{path}:{number}: not a JSON line; delete this line to go on") from error
    return rows


def _write(path: Path, rows: list[Row]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def draw_curves(rows: list[Row], path: Path) -> None:
    """Loss terms on the left, validation AP on the right."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    names = [
        name for name in ("loss", "loss_classes", "loss_boxes", "loss_landmarks") if any(row[name] for row in rows)
    ]
    for name, (colour, marker) in zip(names, STYLES, strict=False):
        label = name.partition("_")[2] or "total"
        losses.plot(epochs, [row[name] for row in rows], color=colour, marker=marker, markersize=4, label=label)
    losses.set(title="Training loss", xlabel="epoch", ylabel="loss per positive prior", yscale="log")
    losses.legend()
    scored = [row for row in rows if row.get("val_ap")]
    for rate, (colour, marker) in zip(scored[-1]["val_ap"] if scored else (), cycle(STYLES), strict=False):
        points = [(row["epoch"], row["val_ap"][rate]) for row in scored]
        precision.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=f"rate {rate}")
    precision.set(title="Validation AP, IoU 0.5, all faces", xlabel="epoch", ylabel="AP", ylim=(0, 1))
    if scored:
        precision.legend()
    else:
        precision.text(0.5, 0.5, "no validation set", ha="center", transform=precision.transAxes)
    for axes in (losses, precision):
        axes.grid(alpha=0.3)
        axes.set_xlim(0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _start_tensorboard(folder: Path, epochs_done: int) -> Any:
    """A writer of event files in `folder/tensorboard`; what a resumed run will repeat does not count any more."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise LatentFaceError("--tensorboard: not installed; pip install tensorboard, or leave the flag out") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epochs_done + 1 if epochs_done else None)


def _show(writer: Any, row: Row, picture: Path) -> None:
    import numpy as np
    from PIL import Image

    for name, value in row.items():
        if isinstance(value, dict):  # AP by rate
            for rate, ap in value.items():
                writer.add_scalar(f"{name}/{rate}", ap, row["epoch"])
        else:
            writer.add_scalar(name, value, row["epoch"])
    with Image.open(picture) as curves:
        writer.add_image("curves", np.asarray(curves.convert("RGB")), row["epoch"], dataformats="HWC")
    writer.flush()


def _start_wandb(folder: Path, settings: Row) -> Any:
    """A Weights & Biases run; offline without a login; None, with a line, where it cannot start."""
    try:
        import wandb
    except ImportError:
        print("Weights & Biases is not installed (pip install wandb): logging to metrics.jsonl only")
        return None
    mode = os.environ.get("WANDB_MODE")
    if mode is None and not _has_login(wandb):
        mode = "offline"
        print("Weights & Biases: no login, logging offline (wandb login, or --no_wandb to leave it out)")
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return wandb.init(
                    project="latentface",
                    dir=str(folder),
                    config=settings,
                    mode=attempt,  # type: ignore[arg-type]
                    settings=wandb.Settings(silent=True, init_timeout=30),
                )
        except (wandb.errors.Error, OSError) as error:
            print(f"Weights & Biases could not start {attempt or 'online'} ({str(error).splitlines()[0]})")
    print("logging to metrics.jsonl only")
    return None


def _has_login(wandb: Any) -> bool:
    return bool(os.environ.get("WANDB_API_KEY")) or bool(getattr(wandb.api, "api_key", None))
