"""Learning rate over a run, as a factor of --lr."""

from __future__ import annotations

import math

STEPS_AT = (0.76, 0.88)  # RetinaFace: epochs 190 and 220 of 250


def learning_rate_factor(epoch: float, *, epochs: int, warmup: float, schedule: str) -> float:
    """`epoch` counts from 0 and goes on inside an epoch: 1.5 is the middle of the second.

    Rises linearly during the first part `warmup` of the `epochs`; then "step" (a tenth after 76 % and again after
    88 %) or "cosine" (to a hundredth at the end).
    """
    done = epoch / epochs
    if done < warmup:
        return max(done / warmup, 1e-3)
    if schedule == "step":
        return 0.1 ** sum(done >= part for part in STEPS_AT)
    rest = min(1.0, (done - warmup) / max(1 - warmup, 1e-9))
    return 0.01 + 0.99 * (1 + math.cos(math.pi * rest)) / 2
