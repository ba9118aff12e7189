"""The demo from end to end, with few pictures: the main job on real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from latentface.cli import main
from latentface.data.labels import read_labels

SMALL = ["--pictures", "24", "--held_out", "6", "--epochs", "2", "--size", "128", "--shown", "1"]


def test_demo_makes_everything_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *SMALL]) == 0
    printed = capsys.readouterr().out
    shown = [Path(line.strip()) for line in printed.splitlines() if line.endswith(".png")]
    assert len(shown) == 4  # how it looks, one picture, the same by the weights that come along, curves
    for path in shown:
        with Image.open(path) as picture:
            picture.verify()
    result = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert list(result["rates"]) == ["12", "25", "50", "75", "100"]
    for rate, scored in result["rates"].items():
        assert scored["mean_bpp"] == pytest.approx(int(rate) / 100, rel=0.15)  # a few plain pictures cost less
        assert scored["latents"] == "exact"
    labels = read_labels(out / "dataset" / "val" / "labels.txt")
    assert len(labels) == 6
    latents = {path.parent.name for path in (out / "dataset" / "val" / "latent").glob("*/latent_75.npy")}
    assert latents == set(labels)
    weights = out / "run" / "weight_final.pth"
    written = weights.stat().st_mtime_ns
    assert main(["demo", "--out", str(out), *SMALL, "--epochs", "3"]) == 0  # goes on from the second epoch
    assert weights.stat().st_mtime_ns > written
    assert main(["demo", "--out", str(out), *SMALL, "--seed", "1"]) == 2
    assert "holds a demo of other seed, size, pictures, held_out" in capsys.readouterr().err
    epochs = [json.loads(line)["epoch"] for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]
