"""What a training takes over from `--weight`: bridge and projection where these are left open, then the weights."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from latentface.codecs.base import may_read
from latentface.data.pretrained import codec_near, pretrained
from latentface.errors import LatentFaceError
from latentface.model.checkpoint import Checkpoint, load_checkpoint, load_strictly
from latentface.model.normalisation import LatentNormalisation
from latentface.model.retinaface import RetinaFace
from latentface.training.config import PRETRAINED, PROJECTION_OPEN, TrainConfig

MOST_AFTER_TRAINING = 2e-4  # learning rate; the weights that come along were trained on with 0.0001 at most


def weight_file(config: TrainConfig) -> str:
    """The file that `--weight` means."""
    return _pretrained_for(config.split_paths("train")[0]) if config.weight == PRETRAINED else config.weight


@lru_cache(maxsize=1)  # says once what a set without manifest is taken for
def _pretrained_for(latent_dir: Path) -> str:
    codec = codec_near([latent_dir], "--weight FILE")
    return str(pretrained(codec, "give a file by --weight, or leave it out to train from the start"))


def started(config: TrainConfig) -> TrainConfig:
    """`config` with bridge and projection of `--weight` where they are left open."""
    theirs = load_checkpoint(weight_file(config), config.model, "--model").config
    if config.weight == PRETRAINED and config.lr > MOST_AFTER_TRAINING:
        print(f"note: --lr {config.lr:g} undoes much of what {PRETRAINED} weights know; they go on with "
              "--lr 0.00005 --entry_lr 0.2 --keep_statistics")  # fmt: skip
    width = theirs.projection if config.projection == PROJECTION_OPEN else config.projection
    return replace(config, bridge=config.bridge or theirs.bridge, projection=width)


def load_start(config: TrainConfig, kind: str) -> Checkpoint:
    """`--weight`. Raises LatentFaceError where it does not look at `kind` (latent, picture), as this set holds them."""
    start = load_checkpoint(weight_file(config), config.model, "--model")
    if start.config.input != kind:
        held = "latents" if kind == "latent" else "pixels"
        other = "--teacher learns from a detector of pictures" if kind == "latent" else "give a detector of pictures"
        raise LatentFaceError(f"{start.origin} looks at {start.config.input}s, these are {held}: {other}")
    return start


def load_weight(checkpoint: Checkpoint, model: RetinaFace, codec: str) -> None:
    """A checkpoint's weights into `model`, whose set is of `codec`, but for what was measured on that set.

    A detector of pictures takes everything over: it has its own range.
    """
    theirs, ours, weight = checkpoint.config, model.config, checkpoint.origin
    if theirs.prior_sizes != ours.prior_sizes:
        sizes = " ".join(str(size) for level in theirs.prior_sizes for size in level)
        raise LatentFaceError(f"{weight} has other priors: give --prior_sizes {sizes}")
    start = checkpoint.build()
    state = start.state_dict()
    if ours.input == "latent":
        refines = (theirs.bridge, ours.bridge) == ("residual", "refined")
        stated = bool(checkpoint.facts)  # else guessed from shapes, which two bridges may share
        if stated and theirs.bridge != ours.bridge and not refines:
            raise LatentFaceError(f"{weight} has another bridge: give --bridge {theirs.bridge}, or leave it out")
        _check_codec(weight, str(checkpoint.facts.get("codec") or "unknown"), codec, theirs.projection)
        state |= projections_of(start, model, weight)
        # With the statistics stay the convolutions that a residual bridge lacks and that add nothing yet.
        own = ("normalisation.", "entry.fine_") if refines else ("normalisation.",)
        state |= {name: t for name, t in model.state_dict().items() if name.startswith(own)}
    load_strictly(model, state, weight)


def _check_codec(weight: str, theirs: str, codec: str, projection: int) -> None:
    """Another codec's linear maps are refused: they are found by model index or rate, which any codec may have."""
    if may_read(theirs, codec):
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
        candidates = there.find(wanted)
        if not candidates:
            other = "it is for another codec or other rates"
            raise LatentFaceError(f"{weight} has no projection for {wanted}: {other}")
        found = candidates[0]
        if len(candidates) > 1:
            print(f"note: {weight} has {len(candidates)} projections for {wanted}: that for {found} is taken")
        if found.channels != wanted.channels:
            counts = f"{found.channels} channels, these latents have {wanted.channels}"
            raise LatentFaceError(f"{weight}: its projection for {wanted} takes {counts}")
        taken = start.projection.weight.detach()[found.row, : maps.shape[1]]
        maps[wanted.row, : len(taken)], bias[wanted.row] = taken, start.projection.bias.detach()[found.row]
    return {"projection.weight": maps, "projection.bias": bias}
