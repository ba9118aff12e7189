"""A detector of latents that starts as a detector of pictures: no step of gradient descent is spent on seeing.

The teacher's weights are taken over behind the entry. The entry itself follows what the teacher's own computes at the
same place. What is linear in it is fitted by least squares, in two passes over some training pictures, to the goals,
which are the teacher's values there, before a leaky activation:

1. The projection: for each codec model, a linear map from a cell's channels to the goals of the 3x3 cells around it;
   the main directions of what these maps predict become its channels (reduced-rank regression).
2. The 3x3 convolution of `ResidualBridge` from those channels to the goals, for all codec models together. Other
   bridges have no such part: they start from random weights, scaled to the goals, and need the descent.

The least squares of a residual bridge leave a quarter to a third of the goals' variance. Then comes gradient descent on
the entry alone, whose steps are cheap, as nothing behind it runs, and well conditioned, as the losses of a finished
detector are not. For a mobilenet, the fit on 1,000 crops of 20 cells takes about a minute of one core, 600 steps of 16
crops some five.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from latentface.data.batches import LatentBatch
from latentface.errors import LatentFaceError
from latentface.model.bridge import ResidualBridge
from latentface.model.checkpoint import load_strictly
from latentface.model.retinaface import RetinaFace
from latentface.progress import progress
from latentface.training.schedule import learning_rate_factor

# Ridge, in cells: as if so many cells with each single channel at 1 had called for 0.
CHANNEL_RIDGE = 10.0
TAP_RIDGE = 30.0
# Of two runs at twice the rate, without a limit to gradients and with the variance of each batch alone, one left a good
# entry after 300 steps and did not come back in 1,400 (records/choices.json).
DESCENT_RATE = 5e-4
RATE_FROM_RANDOM = 2e-3  # of bridges that least squares cannot fit; 120 steps of `deep` end nearer than at 5e-4
START_SPREAD = 0.1  # of such a bridge's channels, in deviations of the teacher's
LARGEST_GRADIENT = 1.0  # norm over all parameters; half of it is usual
OWN_PARTS = ("normalisation.", "projection.", "entry.")  # of a detector of latents; all else is the teacher's too


@torch.no_grad()
def start_as(teacher: RetinaFace, model: RetinaFace, loader: DataLoader, pictures: int) -> None:
    """Gives `model` the teacher's weights, and an entry fitted on the first `pictures` that the loader gives.

    The bridge is fitted where it is a `ResidualBridge`; any other one still wants `descend`. Raises LatentFaceError
    where teacher and model differ in more than their entry.
    """
    refuse_unlike(teacher, model)
    own = {name: t for name, t in model.state_dict().items() if name.startswith(OWN_PARTS)}
    theirs = {name: t for name, t in teacher.state_dict().items() if not name.startswith(OWN_PARTS)}
    load_strictly(model, own | theirs, "--teacher")
    model.eval()
    batches = _First(loader, pictures)
    if model.config.projection:
        _fit_projection(teacher, model, batches)
    if isinstance(model.entry, ResidualBridge):
        _fit_expansion(teacher, model, model.entry, batches)
    else:
        _match_scale(teacher, model, batches)


def refuse_unlike(teacher: RetinaFace, model: RetinaFace) -> None:
    """Raises LatentFaceError where the two differ in more than how a picture or latent enters."""
    theirs, ours = teacher.config, model.config
    if ours.input == "picture":
        raise LatentFaceError("--fit_entry is for latents: a detector of pictures starts as another by --weight")
    if (theirs.backbone, theirs.enters) != (ours.backbone, ours.enters):
        raise LatentFaceError(
            f"--fit_entry: a {ours.backbone} behind --bridge {ours.bridge} cannot start as the teacher, a "
            f"{theirs.backbone} on pictures: both have to be one --model, which the bridge enters at layer2"
        )


def descend(
    teacher: RetinaFace,
    model: RetinaFace,
    loader: DataLoader,
    steps: int,
    precision: torch.dtype = torch.float32,
    rate: float = DESCENT_RATE,
) -> None:
    """So many batches of gradient descent on the entry alone; for `model` as `refuse_unlike` wants it.

    It follows the mean squared error of what the entry gives, relative to the variance of each of the teacher's
    channels; that is a running mean over batches, as in a batch of dark pictures some channels hardly vary.
    """
    parameters = [p for name, p in model.named_parameters() if name.startswith(OWN_PARTS)]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.eval()
    model.entry.train()
    batches, variance = islice(chain.from_iterable(repeat(loader)), steps), None
    last: deque[Tensor] = deque(maxlen=max(1, min(20, steps // 4)))  # losses
    for step, batch in enumerate(progress(batches, "fitting the entry", steps, unit="step")):
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(step / steps, epochs=1, warmup=0.05, schedule="cosine")
        goal = _seen(teacher, batch)
        with torch.autocast(goal.device.type, dtype=precision, enabled=precision != torch.float32):
            found = model.entry(_projected(model, batch))
        error = (found.float() - goal).square().mean(dim=(0, 2, 3))
        of_batch = goal.var(dim=(0, 2, 3))
        variance = of_batch if variance is None else variance.lerp(of_batch, max(0.01, 1 / (step + 1)))
        loss = (error / variance.clamp(min=1e-6)).mean()
        if not loss.isfinite():
            raise LatentFaceError(
                f"the loss of --fit_entry is not finite in step {step + 1}, pictures {', '.join(batch.names)}: look at "
                "their latents, or give --precision float32"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        last.append(loss.detach())
    model.eval()
    if steps:
        print(
            f"the entry misses {torch.stack(tuple(last)).mean():.0%} of the variance of what the teacher sees",
            flush=True,
        )


class _First:
    """The first batches of a loader, the same whenever iterated."""

    def __init__(self, loader: DataLoader, pictures: int) -> None:
        self.loader, self.pictures = loader, pictures

    def __iter__(self) -> Iterator[LatentBatch]:
        seen = 0
        for batch in islice(self.loader, len(self.loader)):
            if seen >= self.pictures:
                return
            seen += len(batch.names)
            yield batch


def _fit_projection(teacher: RetinaFace, model: RetinaFace, batches: Iterable[LatentBatch]) -> None:
    rows, channels, kept = model.projection.weight.shape
    device = model.projection.weight.device
    squares = torch.zeros(rows, channels + 1, channels + 1, device=device)
    products: Tensor | None = None  # [rows, C + 1, 9 * D]
    for batch in batches:
        normalised, batch_rows = _normalised(model, batch)
        goals = _goals(teacher, model, batch)
        cells = _with_one(normalised.flatten(2).transpose(1, 2))  # [B, cells, C + 1]
        if products is None:
            products = torch.zeros(rows, channels + 1, 9 * goals.shape[1], device=device)
        squares.index_add_(0, batch_rows, cells.transpose(1, 2) @ cells)
        for row, of_picture, goal in zip(batch_rows.tolist(), cells, goals, strict=True):  # many would fill the memory
            products[row] += of_picture.T @ _neighbourhood(goal[None])[0].T
    assert products is not None
    maps = _ridge(squares, products, CHANNEL_RIDGE)
    projections = maps @ _main_directions(squares, maps, kept)
    model.projection.weight.copy_(projections[:, :-1])
    model.projection.bias.copy_(projections[:, -1:])


def _main_directions(squares: Tensor, maps: Tensor, kept: int) -> Tensor:
    """The strongest directions of what the maps predict around its mean, scaled to variance 1: [9 * D, kept].

    Each codec model counts the same. By the eigenvectors of the small side, [rows * (C + 1)] squared, not [9 * D].
    """
    parts = []
    for square, linear in zip(squares, maps, strict=True):
        cells, ones = square[-1, -1].clamp(min=1), square[-1]
        values, vectors = torch.linalg.eigh((square - torch.outer(ones, ones) / cells) / cells)
        parts.append((vectors * values.clamp(min=0).sqrt()).T @ linear)  # [C + 1, 9 * D], its covariance's root
    roots = torch.cat(parts)
    strengths, vectors = torch.linalg.eigh(roots @ roots.T)  # ascending
    strengths, vectors = strengths[-kept:].clamp(min=1e-6), vectors[:, -kept:]
    directions = roots.T @ (vectors / strengths)
    return F.pad(directions, (kept - directions.shape[1], 0))  # nothing for channels beyond the rank


def _fit_expansion(
    teacher: RetinaFace, model: RetinaFace, bridge: ResidualBridge, batches: Iterable[LatentBatch]
) -> None:
    squares = products = torch.zeros((), device=bridge.expand.weight.device)
    for batch in batches:
        taps = _with_one(_neighbourhood(_projected(model, batch)).transpose(1, 2))
        taps = taps.flatten(0, 1)  # [B * cells, 9 * P + 1]
        goals = _goals(teacher, model, batch).flatten(2).transpose(1, 2).flatten(0, 1)
        squares = squares + taps.T @ taps
        products = products + taps.T @ goals
    weights = _ridge(squares, products, TAP_RIDGE)
    bridge.expand.weight.copy_(weights[:-1].T.unflatten(1, bridge.expand.weight.shape[1:]))
    bridge.expand.bias.copy_(weights[-1])  # type: ignore[union-attr]


def _match_scale(teacher: RetinaFace, model: RetinaFace, batches: Iterable[LatentBatch]) -> None:
    """Lets a bridge of random weights give each of the teacher's channels at its mean, and little of its spread.

    Some of a mobilenet's channels hardly vary: until a bridge has found that out, they are most of the error.
    """
    last = getattr(model.entry, "last_norm", None)
    if last is None:
        return
    goals = [_before_activation(teacher, _seen(teacher, batch)) for batch in batches]
    last.bias.copy_(torch.cat([goal.mean(dim=(2, 3)) for goal in goals]).mean(dim=0))
    last.weight.copy_(START_SPREAD * torch.cat([goal.std(dim=(2, 3)) for goal in goals]).mean(dim=0))


def _normalised(model: RetinaFace, batch: LatentBatch) -> tuple[Tensor, Tensor]:
    """Normalised latents [B, C, h, w], zeros for channels that no latent of the batch has; their rows of statistics."""
    device = next(model.parameters()).device
    rates, indices = batch.rates.to(device), batch.model_indices.to(device)
    normalised = model.normalisation(batch.decoded(device), rates, indices)
    lacking = model.config.channels - normalised.shape[1]
    return F.pad(normalised, (0, 0, 0, 0, 0, lacking)), model.normalisation.rows(rates, indices)


def _projected(model: RetinaFace, batch: LatentBatch) -> Tensor:
    """What the bridge takes: [B, P, h, w]."""
    x, rows = _normalised(model, batch)
    return model.projection(x, rows) if model.config.projection else x


@torch.no_grad()
def _seen(teacher: RetinaFace, batch: LatentBatch) -> Tensor:
    """What the teacher's entry gives: [B, D, H / s, W / s], a mobilenet's 32 channels at stride 4."""
    if batch.pictures is None:
        raise LatentFaceError("--fit_entry: not every latent has its photograph")
    pictures = batch.pictures.to(next(teacher.parameters()).device).float()
    return teacher.entry(teacher.normalisation(pictures, batch.rates))


def _goals(teacher: RetinaFace, model: RetinaFace, batch: LatentBatch) -> Tensor:
    """What the teacher's entry holds before its last activation, per latent cell: [B, D * scale^2, h, w]."""
    before = _before_activation(teacher, _seen(teacher, batch))
    return F.pixel_unshuffle(before, model.config.stride // model.backbone.entry_stride)


def _before_activation(teacher: RetinaFace, seen: Tensor) -> Tensor:
    """Undoes a leaky activation; a ReLU leaves nothing below zero, and what it cut off is unknown."""
    slope = teacher.backbone.entry_slope
    return torch.where(seen < 0, seen / slope, seen) if slope else seen


def _neighbourhood(cells: Tensor) -> Tensor:
    """[B, D, h, w] -> [B, 9 * D, h * w]: each cell's 3x3 surroundings."""
    return F.unfold(cells, 3, padding=1)


def _with_one(x: Tensor) -> Tensor:
    """A last channel of ones, which the constant term multiplies."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def _ridge(squares: Tensor, products: Tensor, strength: float) -> Tensor:
    """Solves (squares + strength) x = products, in double precision; by Cholesky, as the left side is positive."""
    eye = torch.eye(squares.shape[-1], dtype=torch.float64, device=squares.device)
    return torch.cholesky_solve(products.double(), torch.linalg.cholesky(squares.double() + strength * eye)).float()
