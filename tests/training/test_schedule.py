"""The learning rate over a run."""

from __future__ import annotations

import pytest

from latentface.training.schedule import learning_rate_factor


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1e-3), (5, 0.5), (10, 1), (75.9, 1), (76, 0.1), (87.9, 0.1), (88, 0.01), (99.9, 0.01)],
)
def test_steps_are_those_of_retinaface(epoch: float, factor: float) -> None:
    """RetinaFace trains 250 epochs and divides by ten at 190 and 220: at 76 and 88 %."""
    assert learning_rate_factor(epoch, epochs=100, warmup=0.1, schedule="step") == pytest.approx(factor)
    assert (190 / 250, 220 / 250) == (0.76, 0.88)


@pytest.mark.parametrize(("epoch", "factor"), [(1, 0.5), (2, 1), (11, 0.505), (20, 0.01)])
def test_cosine_falls_to_a_hundredth(epoch: float, factor: float) -> None:
    assert learning_rate_factor(epoch, epochs=20, warmup=0.1, schedule="cosine") == pytest.approx(factor)


def test_without_warmup_it_starts_at_once() -> None:
    assert learning_rate_factor(0, epochs=2, warmup=0, schedule="step") == 1
