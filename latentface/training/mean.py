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
LARGEST_DIFFERENCE = 0.25  # between statistics of one set of latents: of a deviation, and of their logarithms
LEAST_LIKENESS = 0.5  # of filters, their cosine; 0.97 and more between those whose mean comes along, else about 0
MANY = 1000  # values of a tensor: chance leaves two such ones no more alike than 0.1


@dataclass
class MeanConfig:
    """Averages the weights of several checkpoints, tensor by tensor, each counting as much as the others."""

    weights: tuple[str, ...] = option(help="two or more checkpoints of one network, from one start", positional=True)
    out: str = option("mean.pth", "file for the mean, in float32")

    def __post_init__(self) -> None:
        if len(self.weights) < 2:
            raise LatentFaceError("a mean takes two checkpoints or more")
        if len(set(self.weights)) < len(self.weights):
            raise LatentFaceError("a mean takes each checkpoint once")
        if Path(self.out).resolve() in {Path(path).resolve() for path in self.weights}:
            raise LatentFaceError(f"--out {self.out} is one of the checkpoints: give another file")


def run(config: MeanConfig) -> Path:
    """Writes `--out`; its facts say what was averaged."""
    parts = [_load(path) for path in config.weights]
    for path, part in zip(config.weights[1:], parts[1:], strict=True):
        _check_alike(config.weights[0], parts[0], path, part)
    model = Checkpoint(parts[0].config, average([part.state for part in parts])).build()
    out = make_folder(Path(config.out).parent, "--out") / Path(config.out).name
    facts = {name: parts[0].facts[name] for name in (*SAME_FACTS, "training") if name in parts[0].facts}
    save_checkpoint(out, model, facts | {"mean_of": [Path(path).name for path in config.weights]})
    print(f"{out}: the mean of {len(parts)} checkpoints; `latentface evaluate` says whether it is better than they are")
    return out


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts with the same names and shapes, in float32; whole numbers are the first one's."""
    return {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0) if one.is_floating_point() else one
        for name, one in states[0].items()
    }


def _load(path: str) -> Checkpoint:
    checkpoint = load_checkpoint(path)
    checkpoint.build()  # refuses what does not fit
    return checkpoint


def _check_alike(first: str, one: Checkpoint, path: str, other: Checkpoint) -> None:
    """Raises LatentFaceError where two checkpoints are no parts of one mean."""
    there, here = (_said(part) for part in (one, other))
    for name in there:
        if there[name] != here[name]:
            raise LatentFaceError(
                f"{path}: {name} {here[name]}, in {first} {there[name]}: a mean takes weights of one network and start"
            )
    if not _measured_alike(one.state, other.state):
        raise LatentFaceError(
            f"{path}: statistics of other latents than in {first}: a mean takes weights of one start, trained on from "
            "there on sets alike (every training measures its own)"
        )
    name, likeness = least_alike(one.state, other.state)
    if likeness < LEAST_LIKENESS:
        raise LatentFaceError(
            f"{path}: {name} has nothing to do with that of {first} (cosine {likeness:.2f}): a mean takes weights of "
            "one start"
        )


def _said(part: Checkpoint) -> dict[str, object]:
    """What has to be the same, the most telling first."""
    return {"input": part.config.input} | asdict(part.config) | {fact: part.facts.get(fact) for fact in SAME_FACTS}


def _measured_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether inputs are normalised nearly alike; samples of the same latents differ by some percent."""
    measured = {"normalisation.mean", MEASURED} if MEASURED in one else set()
    tables = [name for name in one if name.startswith("normalisation.") and name not in measured]
    if not all(one[name].shape == other[name].shape for name in tables):
        return False
    if not all(torch.allclose(one[name].float(), other[name].float(), rtol=1e-3) for name in tables):
        return False
    if not measured:  # a detector of pictures
        return True
    inverse, others = one[MEASURED].float(), other[MEASURED].float()
    there = inverse > 0
    if inverse.shape != others.shape or not torch.equal(there, others > 0):
        return False
    shift = (one["normalisation.mean"].float() - other["normalisation.mean"].float()) * inverse.minimum(others)
    scale = (others[there] / inverse[there]).log()
    return bool((shift.abs() < LARGEST_DIFFERENCE).all() and (scale.abs() < LARGEST_DIFFERENCE).all())


def least_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[str, float]:
    """Of all filters, those with the smallest cosine between the one's and the other's."""
    large = [name for name in one if one[name].dim() > 2 and one[name].numel() >= MANY]
    cosines = {
        name: torch.cosine_similarity(one[name].flatten().float(), other[name].flatten().float(), dim=0)
        for name in large
    }
    name = min(cosines, key=lambda name: float(cosines[name]))
    return name, float(cosines[name])
