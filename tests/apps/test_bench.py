"""The benchmark's arithmetic, and that every part of it runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from latentface.apps import bench
from latentface.apps.bench_config import PARTS
from latentface.apps.bench_networks import crowded_predictions, random_model
from latentface.apps.bench_parts import MEASURES
from latentface.apps.bench_reading import reading_rows
from latentface.apps.bench_timing import Comparison, Row, _as_convolution, compare, comparison_of, run_measured
from latentface.apps.bench_training import plain_loss
from latentface.cli import main
from latentface.data.pack import PackConfig
from latentface.data.pack import run as pack
from latentface.model.config import ModelConfig
from latentface.model.cost import gmac
from latentface.model.faces import Thresholds
from latentface.model.loss import MultiTaskLoss, Targets
from latentface.model.postprocess import postprocess
from latentface.model.retinaface import RetinaFace


def test_the_ratio_is_the_median_of_neighbours():
    """Ratios 2, 3 and 10: one slow round of theirs does not move the median."""
    found = comparison_of(np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 20.0]]))
    assert found == Comparison(1.0, 3.0, 3.0, (2.5, 6.5), 3)


def test_sides_take_turns_after_warming_up():
    order = []
    compare(lambda: order.append("ours"), lambda: order.append("theirs"), rounds=2, before=lambda: order.append("-"))
    assert order == ["ours", "theirs", "-", "ours", "-", "theirs", "-", "theirs", "-", "ours"]


def test_gmac_counts_multiply_adds():
    convolution = nn.Conv2d(16, 32, 3, padding=1)
    assert gmac(convolution, torch.zeros(1, 16, 100, 100)) == pytest.approx(16 * 32 * 9 * 100 * 100 / 1e9)


def test_every_part_is_measured():
    assert tuple(MEASURES) == PARTS


def test_the_table():
    row = Row("ours", "theirs", Comparison(0.01, 0.05, 5.0, (4.5, 5.5), 3), 2.0)
    assert bench.table([row.plain(), {"item": "no comparison"}]).splitlines()[2:] == [
        "| ours | 10.0 | theirs | 50.0 | 5.00 (4.50 to 5.50) | 2 |"
    ]


def test_the_crowd_is_found_again():
    """Of 200 faces, most come back as one box each: what is timed is what a crowded picture is."""
    model = random_model(ModelConfig("light", "shuffle", channels=8))
    priors = model.priors(40, 40, torch.device("cpu"))
    predictions, faces = crowded_predictions(priors, 640, 640)
    (found,) = postprocess(predictions, priors, width=640, height=640, thresholds=Thresholds(confidence=0.5))
    assert faces == 200
    assert 0.8 * faces < len(found) <= 1.05 * faces


def test_the_plain_step_minimises_the_same_loss():
    """Where each face has a best prior of its own and there is no ignored one, both write down one formula."""
    model = random_model(ModelConfig("light", "shuffle", channels=8))
    priors = model.priors(10, 10, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    predictions = {
        name: torch.randn(2, len(priors), width, generator=generator)
        for name, width in (("scores", 2), ("boxes", 4), ("landmarks", 10))
    }
    boxes = torch.tensor([[[10.0, 12, 40, 44], [90, 80, 150, 155]], [[20, 100, 50, 128], [60, 10, 76, 30]]])
    landmarks = ((boxes[..., :2] + boxes[..., 2:]) / 2).repeat(1, 1, 5)
    real = torch.ones(2, 2, dtype=torch.bool)
    targets = Targets(boxes, landmarks, real, ~real)
    ours = MultiTaskLoss()(predictions, targets, priors)["total"]
    assert plain_loss(predictions, targets, priors).item() == pytest.approx(ours.item(), rel=1e-5)


def test_peak_memory_and_failures_of_a_command():
    seconds, megabytes = run_measured(["--version"])
    assert 0 < seconds < 60
    assert 5 < megabytes < 100  # nothing heavy is imported
    with pytest.raises(RuntimeError, match="no command 'nonsense'"):
        run_measured(["nonsense"])


def test_a_step_that_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Compiling itself would take a minute; where it does not work there is a note and the rest goes on."""
    compiled = []
    monkeypatch.setattr(RetinaFace, "compile", lambda model: compiled.append(model))
    settings = ["bench", "--quick", "--rounds", "1", "--parts", "compile", "--machine", "here"]
    assert main([*settings, "--out", str(tmp_path / "works")]) == 0
    (row,) = json.loads((tmp_path / "works" / "bench_here.json").read_text())["rows"]["compile"]
    assert (row["item"], row["against"]) == (
        "training step by torch.compile, light, shuffle bridge", "the step without it",
    )  # fmt: skip
    assert len(compiled) == 1
    capsys.readouterr()

    def missing(model: RetinaFace) -> None:
        raise RuntimeError("no compiler\nmore of it")

    monkeypatch.setattr(RetinaFace, "compile", missing)
    assert main([*settings, "--out", str(tmp_path / "fails")]) == 0
    note = "note: torch.compile does not work here, so it is left out (RuntimeError: no compiler)"
    assert note in capsys.readouterr().out.splitlines()


def test_a_matrix_product_as_a_convolution():
    square = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_as_convolution(square)[0, :, 0].T, square @ square.T)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_reading_says_what_it_was_held_against(stored: type, drawn_dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn_dataset / "val", tmp_path / "tree" / "val")
    for path in (tmp_path / "tree").glob("val/latent/*/latent_75.npy"):
        np.save(path, np.load(path).astype(stored))
    pack(PackConfig(root=str(tmp_path / "tree"), out=str(tmp_path / "packed"), dtype="float16", rates=(75,)))
    rows = list(reading_rows(tmp_path / "tree" / "val", {"float16": tmp_path / "packed" / "val"}, rounds=1))
    named = f"np.load of {np.dtype(stored)} files"
    assert [row.against for row in rows] == [named, named, f"{named}, then cropped"]
    assert (rows[0].at_least is not None) == (stored is np.float32)


def test_every_part_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    parts = ["limits", "detection", "bridges", "postprocessing", "training", "reading", "supply", "encode"]
    settings = ["--quick", "--backbone", "resnet18", "--rounds", "1", "--out", str(tmp_path), "--machine", "here"]
    assert main(["bench", *settings, "--parts", *parts]) == 0
    assert main(["bench", *settings, "--parts", "wider", "postprocessing"]) == 0
    result = json.loads((tmp_path / "bench_here.json").read_text())
    assert [*result["rows"]] == parts  # wider has nothing to look at; earlier parts stay
    assert all(row["measured_with"]["settings"]["quick"] for rows in result["rows"].values() for row in rows)
    items = [row["item"] for row in result["rows"]["detection"]]
    assert items[0] == "latent to faces: light, shuffle, torch float32, batch 1"
    assert "latent to faces: light, shuffle, ONNX Runtime int8, batch 8" in items
    assert [(row["item"], row["against"]) for row in result["rows"]["supply"]] == [
        (f"a batch from the loader, int8, {workers} workers", result["rows"]["supply"][0]["against"])
        for workers in (0, 2)
    ]
    assert all(row["facts"]["pictures_per_second_read"] > 0 for row in result["rows"]["supply"])
    for row in result["rows"]["training"]:
        assert "aten::convolution_backward" in row["facts"]["operations"]
        assert 0 < sum(row["facts"]["operations"].values()) < 1.01
    for row in result["rows"]["postprocessing"]:
        steps = row["facts"]["steps"]
        assert list(steps) == ["scores", "candidates", "boxes", "suppression", "landmarks"]
        assert min(steps.values()) > 0
    deep = next(row for row in result["rows"]["bridges"] if row["item"] == "bridge deep, resnet18")
    assert deep["facts"]["gmac"] < deep["facts"]["against_gmac"]
    (encoding,) = result["rows"]["encode"]  # of drawn photographs, by dct; of so few the time says nothing
    assert encoding["facts"]["pictures"] == 4
    limits = {row["item"]: row for row in result["rows"]["limits"]}
    assert 0 < limits["light on latents, shuffle bridge"]["share_of_matrix_product"] < 2
    assert limits["resnet18 on pictures"]["gmac"] == pytest.approx(17.4 / 16, rel=0.02)  # 160 px
    table = (tmp_path / "bench_here.md").read_text().splitlines()
    assert len(table) == 2 + sum("comparison" in row for rows in result["rows"].values() for row in rows)
    assert f"{tmp_path / 'bench_here.json'}" in capsys.readouterr().out
