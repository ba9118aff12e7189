"""What a training takes over from `--weight`: bridge and projection where these are left open, then the weights."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from latentface.codecs.base import NO_CODEC
from latentface.data.pretrained import codec_near, pretrained
from latentface.errors import LatentFaceError
from latentface.model.checkpoint import load_checkpoint, load_strictly
from latentface.model.normalisation import LatentNormalisation
from latentface.model.retinaface import RetinaFace
from latentface.training.config import PRETRAINED, PROJECTION_OPEN, TrainConfig


def started(config: TrainConfig) -> TrainConfig:
    """`config` with the file that `--weight` means, and bridge and projection as there where they are left open."""
    weight = config.weight
    if weight == PRETRAINED:
        weight = str(pretrained(codec_near([config.split_paths("train")[0]], "--weight FILE")))
    theirs = load_checkpoint(weight, network=config.model).config
    width = theirs.projection if config.projection == PROJECTION_OPEN else config.projection
    return replace(config, weight=weight, bridge=config.bridge or theirs.bridge, projection=width)


def load_weight(config: TrainConfig, model: RetinaFace, codec: str) -> None:
    """`--weight`, but for what was measured on this training set; of a detector of pixels all: it has its own range."""
    checkpoint = load_checkpoint(config.weight, network=config.model)
    theirs = checkpoint.config
    if theirs.prior_sizes != model.config.prior_sizes:
        sizes = " ".join(str(size) for level in theirs.prior_sizes for size in level)
        raise LatentFaceError(f"{config.weight} has other priors: give --prior_sizes {sizes}")
    start = checkpoint.build()
    state = start.state_dict()
    if model.config.input == "latent":
        refines = (theirs.bridge, config.bridge) == ("residual", "refined")
        stated = bool(checkpoint.facts)  # else guessed from shapes, which two bridges may share
        if stated and theirs.input == "latent" and theirs.bridge != config.bridge and not refines:
            raise LatentFaceError(f"{config.weight} has another bridge: give --bridge {theirs.bridge}, or leave it out")
        if theirs.input == "latent":
            _check_codec(config.weight, str(checkpoint.facts.get("codec") or "unknown"), codec, theirs.projection)
            state |= projections_of(start, model, config.weight)
        # With the statistics stay the convolutions that a residual bridge lacks and that add nothing yet.
        own = ("normalisation.", "entry.fine_") if refines else ("normalisation.",)
        state |= {name: t for name, t in model.state_dict().items() if name.startswith(own)}
    load_strictly(model, state, config.weight)


def _check_codec(weight: str, theirs: str, codec: str, projection: int) -> None:
    """Another codec's linear maps are refused: they are found by model index or rate, which any codec may have."""
    here = set(codec.split(" and ")).difference(NO_CODEC)
    if theirs in NO_CODEC or here <= {theirs}:
        return
    text = f"{weight} was trained on latents of {theirs}, these are of {codec}"
    if projection:
        raise LatentFaceError(f"{text}: its projections mean nothing here, take weights of {codec}")
    print(f"note: {text}")


def projections_of(start: RetinaFace, model: RetinaFace, weight: str) -> dict[str, Tensor]:
    """The linear maps that `start` has for the codec models of `model`: a set of some rates takes theirs alone.

    Raises LatentFaceError where it has none for one of them. Rows that no picture takes keep their own.
    """
    width = start.config.projection
    if width != model.config.projection:
        if not width:
            only = "it goes on with --projection 0 and latents of one number of channels"
            raise LatentFaceError(f"{weight} has no projection: {only}")
        raise LatentFaceError(f"{weight} has another projection: give --projection {width}")
    there, here = start.normalisation, model.normalisation
    if not width or not isinstance(there, LatentNormalisation) or not isinstance(here, LatentNormalisation):
        return {}
    maps, bias = model.projection.weight.detach().clone(), model.projection.bias.detach().clone()
    for wanted in here.codec_models():
        found = there.find(wanted)
        if found is None:
            other = "it is for another codec or other rates"
            raise LatentFaceError(f"{weight} has no projection for {wanted}: {other}")
        if found.channels != wanted.channels:
            counts = f"{found.channels} channels, these latents have {wanted.channels}"
            raise LatentFaceError(f"{weight}: its projection for {wanted} takes {counts}")
        taken = start.projection.weight.detach()[found.row, : maps.shape[1]]
        maps[wanted.row, : len(taken)], bias[wanted.row] = taken, start.projection.bias.detach()[found.row]
    return {"projection.weight": maps, "projection.bias": bias}
