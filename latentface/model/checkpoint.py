"""Checkpoints: tensors and plain values, nothing executable; they say what they are.

    {"format": "latentface/1", "model": {...ModelConfig}, "state": {...}, "facts": {...}}

`facts` holds the codec, the rates, the training settings, the epoch, its metrics and the versions that wrote it.
A bare state dict (also one whose keys start with `module.`) is read too; its shapes tell the model's configuration.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentface.errors import LatentFaceError
from latentface.files import replacing
from latentface.machine import versions
from latentface.model import published
from latentface.model.config import BACKBONES, BRIDGE_ENTERS, ModelConfig, fits
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import LEVEL_STRIDES, RetinaFace
from latentface.torch_file import read_torch_file

FORMAT = "latentface/1"
STRIDES = (16, 8, 32)  # of latents, the usual one first: what a bare state dict is tried with


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: configuration, weights, and what is known of where they come from."""

    config: ModelConfig
    state: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    origin: str = "the checkpoint"  # its file, with which errors begin

    def build(self) -> RetinaFace:
        """The model with its weights; raises LatentFaceError where they do not fit (the first misfit is named)."""
        statistics = _statistics_like(self.state)
        with torch.device("meta"):  # shapes only: a configuration may ask for more memory than there is
            check_fit(RetinaFace(self.config, statistics), self.state, self.origin)
        for name, tensor in self.state.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise LatentFaceError(f"{self.origin}: {name} has NaN or infinite values; take an earlier one")
        model = RetinaFace(self.config, statistics)
        load_strictly(model, self.state, self.origin)
        model.normalisation.check(self.origin)
        return model


def save_checkpoint(path: str | Path, model: RetinaFace, facts: dict[str, Any]) -> None:
    """Writes `path` atomically: a reader finds the old file or the new one, never half of one."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "model": asdict(model.config),
        "state": state,
        "facts": facts | {"versions": versions()},
    }
    save_atomically(content, path)


def save_atomically(content: dict[str, Any], path: str | Path) -> None:
    """torch.save by `replacing`; into a file of ours, as torch's own says nothing of why a disk refused."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_checkpoint(path: str | Path, network: str | None = None, flag: str = "--network") -> Checkpoint:
    """Reads a checkpoint or a bare state dict. `network` is what the user believes the backbone to be, by `flag`.

    Raises LatentFaceError for a file that is missing, no checkpoint, or of another network than `network`.
    """
    content = read_torch_file(path)
    if content.get("format") == FORMAT:
        try:
            state, facts = dict(content["state"]), dict(content["facts"])
            checkpoint = Checkpoint(ModelConfig.of(content["model"]), state, facts, str(path))
            if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()):
                raise TypeError("its state holds something else than tensors")
        except (LatentFaceError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise LatentFaceError(f"{path}: a damaged latentface checkpoint ({error})") from error
    elif content and all(isinstance(value, Tensor) for value in content.values()):
        state = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
        if published.FIRST in state and state[published.FIRST].dim() == 4:
            facts = {"codec": "pixels", "published": "RetinaFace with MobileNetV1-0.25"}
            checkpoint = Checkpoint(published.CONFIG, published.translate(state), facts, str(path))
        else:
            checkpoint = Checkpoint(_config_of(state, path), state, origin=str(path))
    else:
        raise LatentFaceError(f"{path}: neither a latentface checkpoint nor a state dict of its models")
    if network and network != checkpoint.config.backbone:
        raise LatentFaceError(
            f"{path} holds a {checkpoint.config.backbone}, not a {network}: give {flag} {checkpoint.config.backbone}"
        )
    return checkpoint


def is_of_epoch(path: Path, epoch: int) -> bool:
    """Whether `path` is there and was saved after that epoch."""
    return path.is_file() and load_checkpoint(path).facts.get("epoch") == epoch


def load_strictly(model: RetinaFace, state: dict[str, Tensor], origin: str) -> None:
    """`check_fit`, then the weights are copied."""
    check_fit(model, state, origin)
    model.load_state_dict(state)


def check_fit(model: RetinaFace, state: dict[str, Tensor], origin: str) -> None:
    """Every weight has to be there and to fit; raises LatentFaceError naming the first that does not."""
    own, kind = model.state_dict(), model.config.input
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise LatentFaceError(f"{origin}: {name} is missing")
        if name not in own:
            raise LatentFaceError(f"{origin}: {name} does not belong to a {model.config.backbone} on {kind}s")
        if own[name].shape != state[name].shape:
            raise LatentFaceError(
                f"{origin}: {name} is {list(state[name].shape)}, this model needs {list(own[name].shape)}"
            )


def _statistics_like(state: dict[str, Tensor]) -> LatentStatistics | None:
    """Empty tables of the sizes that the state dict will fill; None where it has none for latents."""
    mean, rates, indices = (state.get(f"normalisation.{name}") for name in ("mean", "rates", "indices"))
    if mean is None or mean.dim() != 2 or rates is None or indices is None:
        return None
    of_rates, of_indices = (0,) * rates.numel(), (0,) * indices.numel()
    return LatentStatistics(mean, torch.ones_like(mean), of_rates, of_rates, of_indices, of_indices)


def _config_of(state: dict[str, Tensor], path: str | Path) -> ModelConfig:
    """The configuration that a bare state dict belongs to, found by trying: what cannot be is left out early.

    Of configurations with equal shapes (a ResNet behind `deep` at stride 8 and behind `stride8` at 16) it is the first.
    """
    statistics = _statistics_like(state)
    weight = state.get("projection.weight")
    projection = 0 if weight is None or not weight.dim() else weight.shape[-1]
    sides = (state.get(f"prior_sizes_{stride}", torch.empty(0)) for stride in LEVEL_STRIDES)
    sizes = tuple(tuple(of_level.flatten().tolist()) for of_level in sides)
    for backbone in BACKBONES:
        if statistics is None or not all(sizes):
            break
        bridges = [bridge for bridge in BRIDGE_ENTERS if fits(backbone, bridge)]
        for stride, bridge in product(STRIDES, list(bridges)):
            if bridge not in bridges:
                continue
            try:
                config = ModelConfig(backbone, bridge, "latent", statistics.mean.shape[1], stride, sizes, projection)
            except LatentFaceError:
                break
            differing = _differing(state, config, statistics)
            if not differing:
                return config
            if not all(name.startswith(("entry.", "backbone.")) for name in differing):
                break  # no other bridge or stride would change that
            if not all(name.startswith("entry.") for name in differing):
                bridges.remove(bridge)  # no other stride would
    raise LatentFaceError(f"{path}: a state dict, but not of a latentface model on latents")


def _differing(state: dict[str, Tensor], config: ModelConfig, statistics: LatentStatistics) -> set[str]:
    """The weights that a model of that configuration has in other shapes, or that only one of both has."""
    with torch.device("meta"):  # shapes only, nothing is allocated
        model = RetinaFace(config, statistics)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return {name for name, _ in shapes.items() ^ {name: tensor.shape for name, tensor in state.items()}.items()}
