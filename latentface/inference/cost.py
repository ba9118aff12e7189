"""What finding the faces of a picture costs, noted while a set is evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from latentface.codecs.base import UNKNOWN_INDEX
from latentface.inference.runtime import Runtime, TorchRuntime
from latentface.model.cost import gmac


class Stopwatch:
    """Times batches: network and suppression, without reading. The first of a shape is left out: it warms up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # of a picture, a batch each
        self.shapes: set[tuple[int, ...]] = set()

    @contextmanager
    def batch(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Around the work on inputs [B, C, h, w]."""
        begin = time.perf_counter()
        yield
        took = time.perf_counter() - begin
        if shape in self.shapes:
            self.seconds.append(took / shape[0])
        self.shapes.add(shape)

    @property
    def milliseconds(self) -> float | None:
        """Median over the batches, of a picture; None where there were too few."""
        return round(1000 * float(np.median(self.seconds)), 3) if self.seconds else None


def cost(runtime: Runtime, watch: Stopwatch) -> dict[str, Any]:
    """For evaluation.json: `gmac` of one picture of the largest size seen (None of an exported graph) and `ms`."""
    largest = max(watch.shapes, key=lambda shape: shape[1:], default=None)
    own: dict[str, Any] = {"gmac": None, "device": "cpu", "precision": runtime.facts.get("precision", "float32")}
    if isinstance(runtime, TorchRuntime):
        own["gmac"] = _gmac(runtime, largest) if largest else None
        own["device"], own["precision"] = str(runtime.device), str(runtime.precision).removeprefix("torch.")
    return {
        "input": runtime.config.input,
        "ms": watch.milliseconds,
        **own,
        "threads": torch.get_num_threads(),
        "batch": max((shape[0] for shape in watch.shapes), default=0),
        "batches": len(watch.seconds),
    }


def _gmac(runtime: TorchRuntime, shape: tuple[int, ...]) -> float:
    model = runtime.model
    inputs = torch.zeros(1, *shape[1:], device=runtime.device)
    rates = torch.tensor([(runtime.rates or (0,))[0]], device=runtime.device)
    return round(gmac(model, inputs, rates, torch.full_like(rates, UNKNOWN_INDEX)), 4)
