"""What `--resume` needs: everything that changes during a run, in one file, written atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from latentface.codecs.base import known_codecs
from latentface.errors import LatentFaceError
from latentface.model.checkpoint import load_strictly, save_atomically
from latentface.model.retinaface import RetinaFace
from latentface.torch_file import read_torch_file

STATE_NAME = "state.pth"


@dataclass
class Progress:
    """How far a run has come. Order, rates and crops follow from (seed, epoch, index): no generator has a state."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done of the next one
    pictures: int = 0  # seen in that epoch
    seconds: float = 0.0  # spent in that epoch, all its parts together
    best: float = -1.0
    skipped: int = 0  # steps of that epoch whose loss or gradients were not finite
    bad_in_a_row: int = 0  # the last steps, if skipped or with a loss beyond sense; over the ends of epochs too
    sums: dict[str, float] = field(default_factory=dict)  # of losses x pictures

    def add(self, losses: dict[str, float], pictures: int, batches: int) -> None:
        self.batch += batches
        self.pictures += pictures
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss * pictures

    def skip_step(self, batch: int) -> None:
        """A step that changed nothing and ended before `batch`."""
        self.batch = batch
        self.skipped += 1

    def next_epoch(self) -> None:
        fresh = Progress(epoch=self.epoch + 1, best=self.best, bad_in_a_row=self.bad_in_a_row)
        self.__dict__.update(fresh.__dict__)


@dataclass(frozen=True)
class Order:
    """What the order of the pictures follows from; inside an epoch none of it may change."""

    rates: tuple[int, ...]
    pictures: int
    batch_size: int
    accumulate: int
    seed: int
    network: str
    window: int = 0  # shards that are mixed at a time; 0: pictures are drawn from the whole set
    codec: str = "unknown"  # of the latents; earlier versions did not keep it


def save_state(
    folder: Path,
    model: RetinaFace,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    order: Order,
) -> None:
    content: dict[str, Any] = {
        "model": model.state_dict(),
        "average": average.state_dict() if average is not None else {},
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "progress": asdict(progress),
        "order": asdict(order),
    }
    save_atomically(content, folder / STATE_NAME)


def load_state(
    folder: Path,
    model: RetinaFace,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    order: Order,
) -> Progress:
    """Puts the saved state back; raises LatentFaceError where it belongs to another kind of run.

    Batch size, seed and set may change between two epochs; inside one they may not, network, rates and codec never.
    """
    path = folder / STATE_NAME
    content = read_torch_file(path)
    try:
        progress, saved = Progress(**content["progress"]), Order(**content["order"])
        refuse_another(saved, order, folder, inside=progress.batch > 0)
        load_strictly(model, content["model"], str(path))
        if (average is None) != (not content["average"]):
            raise LatentFaceError(
                f"{folder} was begun {'with' if average is None else 'without'} --average: the same now"
            )
        if average is not None:
            average.load_state_dict(content["average"])
        optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:  # of a run before every precision had one: as it starts
            scaler.load_state_dict(content["scaler"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        first_line = str(error).partition("\n")[0]  # torch lists every tensor
        raise LatentFaceError(f"{path}: does not belong to a run with these settings ({first_line})") from error
    return progress


def refuse_another(saved: Order, order: Order, folder: Path, *, inside: bool) -> None:
    """Raises LatentFaceError where a run cannot go on by `order`; `inside` an epoch nothing of it may change."""
    for name in tuple(asdict(order)) if inside else ("network", "rates", "codec"):
        before, now = getattr(saved, name), getattr(order, name)
        if not (_same_codecs(before, now) if name == "codec" else before == now):
            raise LatentFaceError(f"{folder} was stopped with {name} {before}, now it is {now}: resume with the same")


def _same_codecs(first: str, second: str) -> bool:
    """Also where one of them is unknown: a manifest may have come or gone."""
    known = [known_codecs(said) for said in (first, second)]
    return not all(known) or known[0] == known[1]
