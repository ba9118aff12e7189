"""`latentface mean`: what comes of two and three checkpoints, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentface.cli import main
from latentface.model.checkpoint import load_checkpoint, save_checkpoint
from latentface.model.config import ModelConfig
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace

FACTS = {"codec": "dct", "rates": [25, 75], "landmarks": True, "epoch": 3}


def write(path: Path, value: float, facts: dict = FACTS, mean: float = 0.0, deviation: float = 1.0, **config) -> str:
    """A checkpoint of `light` whose weights are all `value`."""
    statistics = LatentStatistics(torch.full((1, 192), mean), torch.full((1, 192), deviation), (25, 75), (0, 0))
    model = RetinaFace(ModelConfig(backbone="light", bridge="shuffle", channels=192, **config), statistics)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(value)
    save_checkpoint(path, model, facts)
    return str(path)


def test_each_counts_as_much_as_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [write(tmp_path / f"{value}.pth", value) for value in (1.0, 2.0, 6.0)]
    assert main(["mean", *parts, "--out", str(tmp_path / "new" / "mean.pth")]) == 0
    found = load_checkpoint(tmp_path / "new" / "mean.pth")
    assert all((weight == 3.0).all() for weight in found.build().parameters())
    assert {name: found.facts.get(name) for name in FACTS} == FACTS | {"epoch": None}  # it is of no epoch
    assert found.facts["mean_of"] == ["1.0.pth", "2.0.pth", "6.0.pth"]
    assert "the mean of 3 checkpoints" in capsys.readouterr().out


def test_batch_statistics_are_averaged_too(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{number}.pth", 1.0) for number in range(2)]
    content = torch.load(parts[1], weights_only=True)
    name = next(name for name in content["state"] if name.endswith("running_var"))
    content["state"][name].fill_(3.0)
    content["state"][name.replace("var", "mean")].copy_(torch.arange(len(content["state"][name])))
    torch.save(content, parts[1])
    assert main(["mean", *parts, "--out", str(tmp_path / "mean.pth")]) == 0
    state = load_checkpoint(tmp_path / "mean.pth").state
    assert (state[name] == 2.0).all()
    assert torch.equal(state[name.replace("var", "mean")], torch.arange(len(state[name])) / 2)


def test_half_precision_is_averaged_in_float32(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{number}.pth", 1.0) for number in range(2)]
    for path, value in zip(parts, (1.0, 1.0 + 2**-10), strict=True):  # neighbours in float16
        content = torch.load(path, weights_only=True)
        content["state"] = {n: t.half() if t.is_floating_point() else t for n, t in content["state"].items()}
        for name, tensor in content["state"].items():
            if name.endswith("weight"):
                tensor.fill_(value)
        torch.save(content, path)
    assert main(["mean", *parts, "--out", str(tmp_path / "mean.pth")]) == 0
    state = load_checkpoint(tmp_path / "mean.pth").state
    assert {float(t.flatten()[0]) for n, t in state.items() if n.endswith("weight")} == {1.0 + 2**-11}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"facts": FACTS | {"codec": "jpegai"}}, "b.pth: codec jpegai, in"),
        ({"facts": FACTS | {"rates": [25]}}, "b.pth: rates [25], in"),
        ({"projection": 64}, "b.pth: projection 64, in"),
        ({"facts": FACTS | {"landmarks": False}}, "b.pth: landmarks False, in"),
        ({"mean": 0.5}, "b.pth: statistics of other latents than in"),
        ({"deviation": 1.5}, "b.pth: statistics of other latents than in"),
        ({"value": -1.0}, "has nothing to do with that of"),
        ({"value": float("nan")}, "b.pth: backbone.stage8.conv1.weight has NaN"),
    ],
)
def test_what_is_no_part_of_one_mean_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, complaint: str
) -> None:
    parts = [write(tmp_path / "a.pth", 1.0), write(tmp_path / "b.pth", **{"value": 1.0} | changes)]
    assert main(["mean", *parts, "--out", str(tmp_path / "mean.pth")]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "mean.pth").exists()


def test_statistics_of_two_samples_of_the_same_latents_differ_a_little(tmp_path: Path) -> None:
    parts = [write(tmp_path / "a.pth", 1.0), write(tmp_path / "b.pth", 1.0, mean=0.2)]
    assert main(["mean", *parts, "--out", str(tmp_path / "mean.pth")]) == 0
    assert (load_checkpoint(tmp_path / "mean.pth").state["normalisation.mean"] - 0.1).abs().max() < 1e-6


def test_detectors_of_pictures_have_a_mean_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [str(tmp_path / f"{number}.pth") for number in range(2)]
    model = RetinaFace(ModelConfig(backbone="light", input="picture", channels=3))
    for path in parts:
        save_checkpoint(path, model, {"codec": "pixels"})
        with torch.no_grad():
            model.class_heads[0].bias += 1
    assert main(["mean", *parts, "--out", str(tmp_path / "mean.pth")]) == 0
    mean = load_checkpoint(tmp_path / "mean.pth").state["class_heads.0.bias"]
    torch.testing.assert_close(mean, model.class_heads[0].bias.detach() - 1.5)
    content = torch.load(parts[1], weights_only=True)
    content["state"]["normalisation.mean"] += 1
    torch.save(content, parts[1])
    assert main(["mean", *parts, "--out", str(tmp_path / "mean.pth")]) == 2
    assert "statistics of other latents" in capsys.readouterr().err


def test_a_tensor_too_many_is_named_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [write(tmp_path / f"{name}.pth", 1.0) for name in "ab"]
    content = torch.load(parts[1], weights_only=True)
    content["state"]["more"] = torch.zeros(1)
    torch.save(content, parts[1])
    assert main(["mean", *parts, "--out", str(tmp_path / "new" / "mean.pth")]) == 2
    assert "b.pth: more does not belong" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_part_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [write(tmp_path / f"{name}.pth", 1.0) for name in "ab"]
    assert main(["mean", *parts, "--out", parts[1]]) == 2
    assert "is one of the checkpoints: give another file" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "complaint"), [(1, "two checkpoints or more"), (2, "each checkpoint once")])
def test_one_is_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, complaint: str) -> None:
    assert main(["mean", *[write(tmp_path / "a.pth", 1.0)] * count]) == 2
    assert complaint in capsys.readouterr().err
