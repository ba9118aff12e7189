"""The WIDER FACE protocol on a folder of prediction files, for `latentface evaluate`. Starts at once: no torch here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentface.evaluation.wider import DIFFICULTIES, evaluate_wider
from latentface.machine import versions

if TYPE_CHECKING:
    from latentface.inference.evaluate import EvaluateConfig


def evaluate_files(config: EvaluateConfig) -> dict[str, Any]:
    """The WIDER FACE protocol on prediction files."""
    protocol = {
        "name": "WIDER FACE",
        "iou": 0.5,
        "predictions": config.predictions,
        "ground_truth": config.ground_truth,
        "scores": "min-max normalised over the set",
        "thresholds": 1000,
    }
    return {"protocol": protocol, "wider": wider_scores(Path(config.predictions), config), "versions": versions()}


def wider_scores(folder: Path, config: EvaluateConfig) -> dict[str, Any]:
    """AP of the three difficulties and how many files there were, as plain values."""
    score = evaluate_wider(folder, Path(config.ground_truth), allow_missing=config.allow_missing)
    names = (*DIFFICULTIES, "pictures", "missing", "empty", "unknown")
    return {name: number(getattr(score, name)) for name in names}


def number(value: float) -> float | None:
    """JSON has no NaN: None where there was nothing to measure."""
    return None if isinstance(value, float) and math.isnan(value) else value
