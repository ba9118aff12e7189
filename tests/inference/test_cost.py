"""What an evaluation says that a picture costs."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from latentface.cli import main
from latentface.inference.cost import Stopwatch
from latentface.model.checkpoint import load_checkpoint


def test_the_median_of_a_picture_without_the_first_batch_of_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches take 1, 2, 3 ... seconds: those of 4, 2 and 6 pictures that count take 2/4, 4/2 and 6/6 a picture."""
    ticks = itertools.chain.from_iterable((0, seconds) for seconds in itertools.count(1))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    watch = Stopwatch()
    for count in (4, 4, 2, 2, 6, 6):
        with watch.batch((count, 256, 40, 40)):
            pass
    assert watch.seconds == [0.5, 2.0, 1.0]
    assert watch.milliseconds == 1000.0
    assert Stopwatch().milliseconds is None


def test_an_evaluation_says_what_a_picture_costs(
    drawn_dataset: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """GMAC of projection and convolutions, these added up layer by layer from the sizes that they give."""
    arguments = ["--weight", str(weights), "--dataset_root", str(drawn_dataset), "--rates", "75"]
    assert main(["evaluate", *arguments, "--batch_size", "1", "--out", str(tmp_path)]) == 0
    cost = json.loads((tmp_path / "evaluation.json").read_text())["cost"]
    assert cost["input"] == "latent"
    assert cost["batch"] == 1
    assert cost["ms"] > 0
    model, by_hand = load_checkpoint(weights).build().eval(), 8 * 8 * 256 * 128

    def count(layer: nn.Conv2d, _: object, output: object) -> None:
        nonlocal by_hand
        by_hand += output.numel() * layer.weight[0].numel()  # type: ignore[attr-defined]

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    model(torch.zeros(1, model.config.channels, 8, 8), torch.tensor([75]))
    assert cost["gmac"] == pytest.approx(by_hand / 1e9, rel=0.01)
    assert f"cost  of a latent: {cost['gmac']:.2f} GMAC, {cost['ms']:.1f} ms" in capsys.readouterr().out
