"""The weights that come along: what they say of themselves, and that they go on finding faces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latentface.apps.drawing import draw_picture
from latentface.cli import main
from latentface.codecs import open_codec
from latentface.codecs.base import RATES
from latentface.data.labels import read_labels
from latentface.data.pictures import find_pictures, read_picture, render, whole_row
from latentface.data.pretrained import FOLDER, pretrained
from latentface.data.sizes import view_labels
from latentface.errors import LatentFaceError
from latentface.evaluation.average_precision import PictureResult, evaluate_pictures
from latentface.files import base_name
from latentface.inference.detector import Detector
from latentface.inference.draw import save_picture
from latentface.model.checkpoint import load_checkpoint

# AP at IoU 0.5 of faces of 10 px and more on the dev photographs of `chosen`, as measured, less 0.01 to 0.03.
FLOORS = {"jpegai": {12: 0.66, 75: 0.78}, "dct": {12: 0.61, 75: 0.72}}


@pytest.mark.parametrize("codec", FLOORS)
def test_weights_are_small_know_all_rates_and_name_no_place(codec: str) -> None:
    path = pretrained(codec)
    checkpoint = load_checkpoint(path)
    assert path.stat().st_size < 8e6
    assert tuple(checkpoint.facts["rates"]) == RATES
    assert checkpoint.facts["codec"] == codec
    assert "/" not in json.dumps({k: v for k, v in checkpoint.facts.items() if k != "metrics"})
    convolutions = [t for t in checkpoint.state.values() if t.dim() > 2 and t.is_floating_point()]
    assert all(t.dtype == torch.float16 for t in convolutions)


def test_the_model_card_is_there_and_says_the_terms() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "non-commercial research" in card
    assert "MIT" in card


@pytest.mark.parametrize("codec", FLOORS)
def test_ap_on_real_photographs_does_not_fall(codec: str, shared: Path) -> None:
    labels = read_labels(shared / "wider" / "dev" / "labels.txt")
    chosen = find_pictures(shared / "wider" / "dev" / "images")[::24]  # 21 of 487
    coder = open_codec(codec, shared / "jpegai" if codec == "jpegai" else None)
    detector = Detector.pretrained(codec)
    results: dict[int, list[PictureResult]] = {rate: [] for rate in FLOORS[codec]}
    for path in chosen:
        rgb = read_picture(path)
        row = whole_row(path.name, rgb.shape[1], rgb.shape[0], 640, "pad", 16)
        truth = view_labels(labels[base_name(path.name)], row)
        for latent in coder.encode_rates(render(rgb, row), list(results)):
            faces = detector(latent.array, latent.rate, model_index=latent.model_index, confidence=0.02)
            found = PictureResult(
                faces.boxes, faces.scores, faces.landmarks, truth.boxes, truth.landmarks, truth.ignore
            )
            results[latent.rate].append(found)
    reached = {rate: evaluate_pictures(of_rate, min_height=10).ap for rate, of_rate in results.items()}
    assert all(reached[rate] >= floor for rate, floor in FLOORS[codec].items()), reached


def test_a_photograph_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture = draw_picture(np.random.default_rng(3), 320, 320, faces=2)
    save_picture(tmp_path / "photo.png", picture.rgb)
    out = tmp_path / "out"
    words = ["detect", str(tmp_path / "photo.png"), "--codec", "dct", "--rate", "50", "--size", "320"]
    assert main([*words, "--out", str(out), "--conf", "0.02"]) == 0
    [found] = out.glob("*.json")
    assert json.loads(found.read_text())
    assert "results in" in capsys.readouterr().out


def test_a_codec_without_weights() -> None:
    with pytest.raises(LatentFaceError, match=r"there are: dct, jpegai\): give --weight$"):
        pretrained("pixels")
