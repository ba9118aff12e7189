"""How large the values of JPEG AI latents are: its four networks differ by 2.4 to 2.7 times from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Amplitude:
    """Of one JPEG AI model (BOP): medians over 487 photographs at 640x640, and the largest magnitude in them."""

    rates: tuple[int, ...]  # that it serves by default
    deviation: float  # of all values
    first: float  # of channel 0
    largest: float

    def distance(self, deviation: float, first: float) -> float:
        """Mean logarithm of both ratios: 0 where they agree, 0.95 from one model to the next."""
        return float(np.log(deviation / self.deviation) + np.log(first / self.first)) / 2


JPEG_AI_MODELS = (
    Amplitude((12,), 0.70, 9.7, 32.8),
    Amplitude((25,), 1.83, 25.7, 85.7),
    Amplitude((50, 75), 4.95, 67.3, 210.0),
    Amplitude((100,), 12.1, 159.0, 468.5),
)
