"""Learning from a teacher that looks at the picture: what its neck holds, and what it predicts for every prior.

Both detectors have the same levels and priors, so everything corresponds one to one. Features as in detection losses
for codecs (mean squared error between neck levels), outputs by the quality focal loss (Li et al. 2020, eq. 6) on the
teacher's probabilities: no mining, and easy background does not drown the faces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from latentface.errors import LatentFaceError
from latentface.model.config import ModelConfig
from latentface.model.loss import alone, quality_focal
from latentface.model.retinaface import NECK_CHANNELS, RetinaFace

SURE = 0.3  # probability from which the teacher's boxes and landmarks are worth learning


@dataclass(frozen=True)
class Distillation:
    """`distillation(...)` -> terms to be added to the loss, each a scalar tensor."""

    teacher: RetinaFace
    weights: tuple[float, ...] = (1.0, 2.0, 1.0)  # of classes, boxes and landmarks
    add_up: Callable[[Tensor], Tensor] = alone  # of a batch that is spread over processes: see `MultiTaskLoss`

    def check(self, config: ModelConfig) -> None:
        """Raises LatentFaceError where teacher and student do not correspond."""
        if self.teacher.config.prior_sizes != config.prior_sizes:
            raise LatentFaceError("--teacher has other priors than --prior_sizes; they have to be the same")
        wide, narrow = (NECK_CHANNELS[c.backbone] for c in (self.teacher.config, config))
        if wide > narrow:
            raise LatentFaceError(
                f"--teacher has a neck of {wide} channels, {config.backbone} one of {narrow}: take a larger model, or "
                "a teacher with a neck as narrow"
            )

    @torch.no_grad()
    def look(self, pictures: Tensor, device: torch.device) -> tuple[list[Tensor], dict[str, Tensor]]:
        """uint8 [B, 3, H, W] -> the teacher's neck levels and predictions."""
        pictures = pictures.to(device, non_blocking=True).float()
        levels = self.teacher.neck_levels(pictures, torch.zeros(len(pictures), dtype=torch.int64, device=device))
        return levels, {name: value.float() for name, value in self.teacher.predictions(levels).items()}

    def __call__(
        self,
        levels: list[Tensor],
        predictions: dict[str, Tensor],
        teacher_levels: list[Tensor],
        teacher_predictions: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Student's and teacher's neck levels [B, N, h, w] and predictions -> `features` and `outputs`."""
        face = torch.sigmoid(log_odds(teacher_predictions["scores"]))  # [B, A]
        return {
            "features": feature_loss(levels, teacher_levels, face, self.add_up),
            "outputs": output_loss(predictions, teacher_predictions, face, self.weights, self.add_up),
        }


def log_odds(scores: Tensor) -> Tensor:
    """Logits [B, A, 2] (background, face) -> the face's log-odds [B, A]."""
    return scores[..., 1] - scores[..., 0]


def feature_loss(
    levels: list[Tensor], goals: list[Tensor], face: Tensor, add_up: Callable[[Tensor], Tensor] = alone
) -> Tensor:
    """Mean squared error relative to the teacher's variance, half of it over all positions, half where faces are.

    The student's first channels stand for the teacher's; whatever it has more is its own. `face` [B, A] is the
    teacher's probability of a face for every prior.
    """
    total, start = face.new_zeros(()), 0
    for level, goal in zip(levels, goals, strict=True):
        channels, rows, columns = goal.shape[1:]
        per_cell = (face.shape[1] - start) if level is levels[-1] else 2 * rows * columns
        weight = face[:, start : start + per_cell].unflatten(1, (rows * columns, -1)).amax(dim=2)  # [B, h * w]
        start += per_cell
        goal = goal.float()
        error = (level[:, :channels].float() - goal).square().mean(dim=1).flatten(1)  # [B, h * w]
        sums = [weight.new_tensor(goal.numel()), goal.sum(), goal.square().sum(), weight.sum()]
        count, first, second, near = add_up(torch.stack(sums)).unbind()
        variance = ((second - first.square() / count) / (count - 1)).clamp(min=1e-6)
        everywhere = error.sum() / (count / channels)
        total = total + (everywhere + (error * weight).sum() / near.clamp(min=1.0)) / (2 * variance)
    return total / len(levels)


def output_loss(
    predictions: dict[str, Tensor],
    goals: dict[str, Tensor],
    face: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    add_up: Callable[[Tensor], Tensor] = alone,
) -> Tensor:
    """Quality focal loss of the scores, smooth L1 of boxes and landmarks where the teacher is sure."""
    odds = log_odds(predictions["scores"].float())
    sure = torch.where(face > SURE, face, 0.0)
    faces, sure_ones = add_up(torch.stack([face.sum(), sure.sum()])).clamp(min=1.0)
    classes = quality_focal(odds, face).sum() / faces
    offsets = [
        (F.smooth_l1_loss(predictions[name].float(), goals[name], reduction="none").sum(dim=2) * sure).sum()
        for name in ("boxes", "landmarks")
    ]
    regression = (weights[1] * offsets[0] + weights[2] * offsets[1]) / sure_ones
    return weights[0] * classes + regression
