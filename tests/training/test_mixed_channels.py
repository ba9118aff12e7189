"""A codec whose qualities differ in their number of channels, all the way from photographs to faces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai_checkpoints import write_checkpoint

from latentface import Detector
from latentface.cli import main
from latentface.data.batches import collate
from latentface.data.latents import NestedLatentWiderFaceDataset
from latentface.data.manifest import read_manifest
from latentface.errors import LatentFaceError
from latentface.inference.export import ExportConfig
from latentface.inference.export import run as export
from latentface.model.checkpoint import load_checkpoint
from latentface.model.config import ModelConfig
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace
from latentface.training.config import TrainConfig
from latentface.training.folder import has_settings
from latentface.training.loop import train

CODEC = "mbt2018-mean"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quality 1 with 12 channels, quality 6 with 20."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for quality, channels in ((1, 12), (6, 20)):
        write_checkpoint(folder, CODEC, quality, n=8, m=channels)
    return folder


@pytest.fixture(scope="module")
def dataset(checkpoints: Path, drawn_photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT with train/ and val/, six drawn pictures of 128x128 each at both qualities."""
    root = tmp_path_factory.mktemp("mixed")
    photographs = drawn_photographs / "photos" / "train"
    for split in ("train", "val"):
        arguments = ["--images", str(photographs), "--labels", str(photographs / "labels.txt"), "--size", "128"]
        codec = ["--codec", CODEC, "--codec_weights", str(checkpoints), "--workers", "1"]
        assert main(["encode", *arguments, *codec, "--out", str(root / split)]) == 0
    return root


@pytest.fixture(scope="module")
def packed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixed_packed")
    assert main(["pack", str(dataset), "--out", str(out), "--dtype", "int8"]) == 0
    return out


@pytest.fixture(scope="module")
def weight(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch on the pack, both qualities in each batch."""
    config = TrainConfig(
        dataset_root=str(packed), out=str(tmp_path_factory.mktemp("run") / "run"), model="light", bridge="shuffle",
        epochs=1, batch_size=3, no_wandb=True, workers=0, rates=(1, 6), precision="float32",
    )  # fmt: skip
    return train(config) / "weight_final.pth"


def latent(dataset: Path, rate: int) -> np.ndarray:
    return np.load(dataset / "val" / "latent" / "drawn_train_0001" / f"latent_{rate}.npy")


def test_the_tree_holds_both_widths(dataset: Path) -> None:
    assert [latent(dataset, rate).shape for rate in (1, 6)] == [(12, 8, 8), (20, 8, 8)]
    entry = read_manifest(dataset / "train" / "latents.jsonl")["drawn_train_0001"].latents[6]
    assert (entry.codec, entry.model_index, entry.exact, entry.bpp_from) == (CODEC, 6, True, "entropy model")


def test_sizes_must_suit_the_hyperprior(checkpoints: Path, drawn_photographs: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--images", str(drawn_photographs / "photos"), "--codec", CODEC, "--codec_weights", str(checkpoints)]
    assert main(["encode", *arguments, "--size", "144", "--out", str(tmp_path / "out")]) == 2
    assert "--size 144 is no multiple of 64, as mbt2018-mean needs it" in capsys.readouterr().err


def test_the_pack_knows_both(packed: Path) -> None:
    assert main(["pack", str(packed), "--verify"]) == 0
    store = NestedLatentWiderFaceDataset.of_split(packed / "val", rates=(1, 6)).store
    assert [store.shape("drawn_train_0001", rate) for rate in (1, 6)] == [(12, 8, 8), (20, 8, 8)]


def test_no_projection_is_kept_as_it_was_asked_for(packed: Path, tmp_path: Path) -> None:
    """There has to be one, of the fewest channels; the run has its own settings all the same."""
    config = TrainConfig(
        dataset_root=str(packed), out=str(tmp_path / "run"), model="light", bridge="shuffle", epochs=1, batch_size=3,
        no_wandb=True, workers=0, rates=(1, 6), precision="float32", projection=0,
    )  # fmt: skip
    assert load_checkpoint(train(config) / "weight_final.pth").config.projection == 12
    assert has_settings(config)
    assert not has_settings(replace(config, projection=8))


def test_the_entry_has_a_linear_map_for_each(weight: Path) -> None:
    checkpoint = load_checkpoint(weight)
    assert (checkpoint.config.channels, checkpoint.config.projection) == (20, 12)
    assert checkpoint.state["projection.weight"].shape == (2, 20, 12)
    assert checkpoint.facts["codec"] == CODEC
    counts = checkpoint.build().normalisation.channel_counts
    assert (counts.by_rate, counts.by_index) == ({1: 12, 6: 20}, {1: 12, 6: 20})


@pytest.mark.parametrize(("rate", "row", "channels"), [(1, 0, 12), (6, 1, 20)])
def test_weights_go_on_with_one_of_their_rates(
    packed: Path, weight: Path, tmp_path: Path, rate: int, row: int, channels: int
) -> None:
    """Bridge and projection are theirs, where nothing else is said."""
    config = TrainConfig(
        dataset_root=str(packed), out=str(tmp_path / "run"), model="light", recipe="retinaface", weight=str(weight),
        epochs=1, batch_size=3, lr=0.0, no_wandb=True, workers=0, rates=(rate,), precision="float32",
    )  # fmt: skip
    went_on, start = load_checkpoint(train(config) / "weight_final.pth"), load_checkpoint(weight)
    assert (went_on.config.bridge, went_on.config.projection) == ("shuffle", 12)
    assert went_on.build().normalisation.known_rates == (rate,)
    assert torch.equal(went_on.state["projection.weight"], start.state["projection.weight"][[row], :channels])
    assert torch.equal(went_on.state["projection.bias"], start.state["projection.bias"][[row]])
    heads = [name for name in start.state if "heads" in name]
    assert all(torch.equal(went_on.state[name], start.state[name]) for name in heads)


def test_filters_of_channels_that_there_are_not_learn_nothing(dataset: Path, weight: Path) -> None:
    samples = [NestedLatentWiderFaceDataset.of_split(dataset / "train", rates=(rate,))[0] for rate in (1, 6)]
    model, batch = load_checkpoint(weight).build(), collate(samples)
    model.train()
    sum(out.square().sum() for out in model(batch.decoded(), batch.rates, batch.model_indices).values()).backward()
    gradient = model.projection.weight.grad
    assert gradient is not None
    assert (gradient[0, 12:] == 0).all()
    assert (gradient[0, :12].abs().sum(dim=1) > 0).all()
    assert (gradient[1].abs().sum(dim=1) > 0).all()


@torch.inference_mode()
def test_a_mixed_batch_is_its_latents_one_by_one(dataset: Path, weight: Path) -> None:
    samples = [NestedLatentWiderFaceDataset.of_split(dataset / "train", rates=(rate,))[0] for rate in (1, 6)]
    model = load_checkpoint(weight).build().eval()
    together = collate(samples)
    both = model(together.decoded(), together.rates, together.model_indices)
    for number, sample in enumerate(samples):
        alone = collate([sample])
        assert alone.latents.shape[1] == (12, 20)[number]
        for name, out in model(alone.decoded(), alone.rates, alone.model_indices).items():
            torch.testing.assert_close(both[name][number], out[0], atol=1e-5, rtol=1e-5)


def test_the_detector_takes_each_rate_at_its_width(dataset: Path, weight: Path) -> None:
    detector = Detector.load(weight)
    faces = detector([latent(dataset, 1), latent(dataset, 6)], rate=[1, 6], confidence=0.02)
    for rate, found in zip((1, 6), faces, strict=True):
        alone = detector(latent(dataset, rate), rate=rate, confidence=0.02)
        assert np.allclose(alone.scores, found.scores, atol=1e-5)
    with pytest.raises(LatentFaceError, match=r"latent 0: shape \[12, 8, 8\]; this model takes \[20, h, w\] .* rate 6"):
        detector(latent(dataset, 1), rate=6)
    with pytest.raises(LatentFaceError, match="a latent of rate 1 has 20 channels, the model takes 12"):
        detector.predict(latent(dataset, 6)[None], np.array([1]), np.array([-1]), None)  # type: ignore[arg-type]


def test_evaluate_and_detect(
    dataset: Path, packed: Path, weight: Path, checkpoints: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {}
    for root in (dataset, packed):
        assert main(["evaluate", "--weight", str(weight), "--dataset_root", str(root), "--out", root.name]) == 0
        result = json.loads((tmp_path / root.name / "evaluation.json").read_text())
        assert sorted(result["rates"]) == ["1", "6"]
        assert result["rates"]["6"]["latents"] == "exact"
        scores[root] = [result["rates"][rate]["all"]["truths"] for rate in ("1", "6")]
    assert scores[dataset] == scores[packed]
    detect = ["detect", "--weight", str(weight), "--conf", "0.02"]
    for inputs, rate in ((dataset / "val" / "latent", 1), (packed / "val", 6)):
        assert main([*detect, str(inputs), "--rate", str(rate), "--out", f"found_{rate}"]) == 0
        assert len(list((tmp_path / f"found_{rate}").glob("*.json"))) == 6


def test_detect_in_a_photograph(
    drawn_photographs: Path, weight: Path, checkpoints: Path, tmp_path: Path, capsys
) -> None:
    photograph = next((drawn_photographs / "photos" / "train").glob("*0001.png"))
    codec = ["--codec", CODEC, "--codec_weights", str(checkpoints), "--rate", "6", "--size", "128"]
    assert main(["detect", str(photograph), "--weight", str(weight), *codec, "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "drawn_train_0001.json").read_text())
    assert (content["rate"], content["picture_width"]) == (6, 128)
    codec[1] = "bmshj2018-hyperprior"
    assert main(["detect", str(photograph), "--weight", str(weight), *codec]) == 2
    assert "no bmshj2018-hyperprior-<quality>.pth.tar" in capsys.readouterr().err


def test_export_takes_both(dataset: Path, weight: Path, tmp_path: Path) -> None:
    out = export(ExportConfig(str(weight), out=str(tmp_path / "model.onnx"), calibration=str(dataset / "train")))
    exported, ours = Detector.load(out), Detector.load(weight)
    assert exported.runtime.channels == ours.runtime.channels
    for rate in (1, 6):
        a, b = (detector(latent(dataset, rate), rate=rate, confidence=0.02) for detector in (ours, exported))
        assert len(a) == len(b) > 0
        assert np.allclose(np.sort(a.scores), np.sort(b.scores), atol=1e-4)
    with pytest.raises(LatentFaceError, match=r"this model takes \[12, h, w\]"):
        exported(latent(dataset, 6), rate=1)


def test_without_a_projection_there_is_no_such_model() -> None:
    statistics = LatentStatistics(torch.zeros(2, 20), torch.ones(2, 20), (1, 6), (0, 1), channels=(12, 20))
    with pytest.raises(LatentFaceError, match="latents of different numbers of channels need a projection"):
        RetinaFace(ModelConfig("light", "shuffle", channels=20), statistics)
