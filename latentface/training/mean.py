"""`latentface mean`: the weights of several trainings from one start, averaged.

Trainings that part from common weights stay close enough for their mean to be a model, often a better one than each
("model soups", Wortsman et al. 2022). Nothing is trained and no data is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.files import make_folder
from latentface.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from latentface.options import option

SAME_FACTS = ("codec", "rates", "landmarks")  # what the weights of a mean were trained for
MEASURED = "normalisation.inverse_deviation"  # what only detectors of latents have
LARGEST_DIFFERENCE = 0.25  # between statistics of one set of latents: of a deviation, and of deviations


@dataclass
class MeanConfig:
    """Averages the weights of several checkpoints, tensor by tensor, each counting as much as the others."""

    weights: tuple[str, ...] = option(help="two or more checkpoints of one network, from one start", positional=True)
    out: str = option("mean.pth", "file for the mean, in float32")

    def __post_init__(self) -> None:
        if len(self.weights) < 2:
            raise LatentFaceError("a mean takes two checkpoints or more")


def run(config: MeanConfig) -> Path:
    """Writes `--out`, which may be one of the checkpoints."""
    parts = [load_checkpoint(path) for path in config.weights]
    for path, part in zip(config.weights[1:], parts[1:], strict=True):
        _check_alike(config.weights[0], parts[0], path, part)
    state = average([part.state for part in parts])
    out = Path(config.out)
    make_folder(out.parent, "--out")
    model = Checkpoint(parts[0].config, state).build()
    save_checkpoint(out, model, {name: parts[0].facts[name] for name in SAME_FACTS if name in parts[0].facts})
    print(f"{out}: the mean of {len(parts)} checkpoints; `latentface evaluate` says whether it is better than they are")
    return out


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts with the same names and shapes, in float32; whole numbers are the first one's."""
    return {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0) if one.is_floating_point() else one
        for name, one in states[0].items()
    }


def _check_alike(first: str, one: Checkpoint, path: str, other: Checkpoint) -> None:
    """Raises LatentFaceError where two checkpoints are no parts of one mean."""
    there, here = (asdict(part.config) | {fact: part.facts.get(fact) for fact in SAME_FACTS} for part in (one, other))
    for name in there:
        if there[name] != here[name]:
            raise LatentFaceError(
                f"{path}: {name} {here[name]}, in {first} {there[name]}: a mean takes weights of one network and start"
            )
    for name, tensor in one.state.items():
        if name not in other.state or other.state[name].shape != tensor.shape:
            raise LatentFaceError(f"{path}: {name} is missing or of another shape than in {first}")
    if not _measured_alike(one.state, other.state):
        raise LatentFaceError(f"{path}: statistics of other latents than in {first}: a mean takes weights of one start")


def _measured_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether inputs are normalised nearly alike; samples of the same latents differ by some percent."""
    measured = {"normalisation.mean", MEASURED} if MEASURED in one else set()
    tables = [name for name in one if name.startswith("normalisation.") and name not in measured]
    if not all(torch.equal(one[name], other[name]) for name in tables):
        return False
    if not measured:  # a detector of pictures
        return True
    inverse = one[MEASURED].float()
    shift = (one["normalisation.mean"].float() - other["normalisation.mean"].float()) * inverse
    scale = other[MEASURED].float()[inverse > 0] / inverse[inverse > 0]
    return bool((shift.abs() < LARGEST_DIFFERENCE).all() and ((scale - 1).abs() < LARGEST_DIFFERENCE).all())
