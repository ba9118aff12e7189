"""Checkpoints: tensors and plain values, nothing executable; they say what they are.

    {"format": "latentface/1", "model": {...ModelConfig}, "state": {...}, "facts": {...}}

`facts` holds the codec, the rates, the training settings, the epoch, its metrics and the versions that wrote it.
A bare state dict (also one whose keys start with `module.`) is read too; its shapes tell the model's configuration.
"""

from __future__ import annotations

import pickle
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

FORMAT = "latentface/1"
STRIDES = (16, 8, 32)  # of latents, the usual one first: what a bare state dict is tried with


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: configuration, weights, and what is known of where they come from."""

    config: ModelConfig
    state: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    def build(self) -> RetinaFace:
        """The model with its weights; raises LatentFaceError where they do not fit (the first misfit is named)."""
        model = RetinaFace(self.config, _statistics_like(self.state))
        load_strictly(model, self.state, "the checkpoint")
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


def load_checkpoint(path: str | Path, network: str | None = None) -> Checkpoint:
    """Reads a checkpoint or a bare state dict. `network` is what the user believes the backbone to be.

    Raises LatentFaceError for a file that is missing, no checkpoint, or of another network than `network`.
    """
    content = load_plain(path)
    if content.get("format") == FORMAT:
        try:
            checkpoint = Checkpoint(ModelConfig.of(content["model"]), content["state"], content["facts"])
        except (KeyError, TypeError, AttributeError) as error:
            raise LatentFaceError(f"{path}: a damaged latentface checkpoint ({error})") from error
    elif content and all(isinstance(value, Tensor) for value in content.values()):
        state = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
        if published.FIRST in state:
            facts = {"codec": "pixels", "published": "RetinaFace with MobileNetV1-0.25"}
            checkpoint = Checkpoint(published.CONFIG, published.translate(state), facts)
        else:
            checkpoint = Checkpoint(_config_of(state, path), state)
    else:
        raise LatentFaceError(f"{path}: neither a latentface checkpoint nor a state dict of its models")
    if network and network != checkpoint.config.backbone:
        raise LatentFaceError(
            f"{path} holds a {checkpoint.config.backbone}, not a {network}: ask for {checkpoint.config.backbone}"
        )
    return checkpoint


def is_of_epoch(path: Path, epoch: int) -> bool:
    """Whether `path` is there and was saved after that epoch."""
    return path.is_file() and load_checkpoint(path).facts.get("epoch") == epoch


def load_plain(path: str | Path) -> dict[str, Any]:
    """A dictionary of tensors and plain values written by torch.save; anything executable is refused."""
    if not Path(path).is_file():
        raise LatentFaceError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LatentFaceError(
            f"{path}: refused, it holds more than tensors and plain values (or is damaged)"
        ) from error
    except Exception as error:  # torch raises many kinds for truncated and foreign files
        raise LatentFaceError(f"{path}: not a PyTorch file, or a damaged one") from error
    if not isinstance(content, dict):
        raise LatentFaceError(f"{path}: neither a latentface checkpoint nor a state dict")
    return content


def load_strictly(model: RetinaFace, state: dict[str, Tensor], origin: str) -> None:
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
    model.load_state_dict(state)


def _statistics_like(state: dict[str, Tensor]) -> LatentStatistics | None:
    """Empty tables of the sizes that the state dict will fill; None where it has none for latents."""
    mean, rates, indices = (state.get(f"normalisation.{name}") for name in ("mean", "rates", "indices"))
    if mean is None or mean.dim() != 2 or rates is None or indices is None:
        return None
    of_rates, of_indices = (0,) * rates.numel(), (0,) * indices.numel()
    return LatentStatistics(mean, torch.ones_like(mean), of_rates, of_rates, of_indices, of_indices)


def _config_of(state: dict[str, Tensor], path: str | Path) -> ModelConfig:
    """The configuration that a bare state dict belongs to, found by trying all: there are few."""
    shapes = {name: tensor.shape for name, tensor in state.items()}
    statistics = _statistics_like(state)
    weight = state.get("projection.weight")
    projection = 0 if weight is None else weight.shape[-1]
    sizes = tuple(tuple(state.get(f"prior_sizes_{stride}", torch.empty(0)).tolist()) for stride in LEVEL_STRIDES)
    for stride, backbone, bridge in product(STRIDES, BACKBONES, BRIDGE_ENTERS):
        if statistics is None or not all(sizes):
            break
        if not fits(backbone, bridge):
            continue
        config = ModelConfig(backbone, bridge, "latent", statistics.mean.shape[1], stride, sizes, projection)
        with torch.device("meta"):  # shapes only, nothing is allocated
            model = RetinaFace(config, statistics)
        if {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes:
            return config
    raise LatentFaceError(f"{path}: a state dict, but not of a latentface model on latents")
