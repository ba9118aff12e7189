"""The detector's Python API: shapes, rates, batches, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import latentface
from latentface import Detector, Faces, LatentFaceError
from latentface.model.checkpoint import load_checkpoint, save_checkpoint
from latentface.model.config import ModelConfig
from latentface.model.normalisation import LatentStatistics
from latentface.model.retinaface import RetinaFace


def write_weights(path: Path, rates: tuple[int, ...] = (25, 75), channels: int = 8) -> Path:
    """A light model with random weights and one row of statistics per rate; rate 75 also has model indices 1 and 2."""
    torch.manual_seed(0)
    rows = len(rates)
    statistics = LatentStatistics(
        torch.arange(rows)[:, None].expand(rows, channels).float(), torch.ones(rows, channels), rates,
        tuple(range(rows)), (1, 2), (0, rows - 1),
    )  # fmt: skip
    model = RetinaFace(ModelConfig(backbone="light", bridge="shuffle", channels=channels), statistics)
    save_checkpoint(path, model, {"codec": "dct", "rates": list(rates)})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "weight.pth")


@pytest.fixture(scope="module")
def detector(weights: Path) -> Detector:
    return Detector.load(weights, device="cpu")


def latent(rows: int = 5, columns: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(8, rows, columns)).astype(np.float32)


def test_one_latent_gives_faces_inside_the_picture(detector: Detector) -> None:
    faces = detector(latent(), rate=75, confidence=0.4)
    assert isinstance(faces, Faces)
    assert len(faces) > 0
    assert faces.boxes.shape == (len(faces), 4)
    assert faces.landmarks.shape == (len(faces), 5, 2)
    assert (np.diff(faces.scores) <= 0).all()
    assert faces.boxes.min() >= 0
    assert (faces.boxes[:, [0, 2]] <= 64).all()
    assert (faces.boxes[:, [1, 3]] <= 80).all()


def test_leading_one_tensor_and_integers_are_the_same(detector: Detector) -> None:
    array = np.rint(latent() * 3)
    expected = detector(array, rate=75, confidence=0.1)
    for same in (array[None], torch.from_numpy(array), array.astype(np.int16)):
        np.testing.assert_array_equal(detector(same, rate=75, confidence=0.1).boxes, expected.boxes)


def test_lists_are_batched_and_stay_in_order(detector: Detector) -> None:
    arrays = [latent(seed=0), latent(3, 7, seed=1), latent(seed=2), latent(3, 7, seed=3), latent(seed=4)]
    rates = [75, 25, 25, 75, 75]
    together = detector(arrays, rate=rates, confidence=0.3, batch_size=2)
    for array, rate, faces in zip(arrays, rates, together, strict=True):
        alone = detector(array, rate=rate, confidence=0.3)
        assert len(alone) == len(faces)
        np.testing.assert_allclose(faces.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(faces.boxes, alone.boxes, atol=1e-3)
    assert detector([], rate=75) == []


def test_model_index_chooses_the_statistics(detector: Detector) -> None:
    array = latent()
    as_25, as_75 = (detector(array, rate=rate, confidence=0).scores for rate in (25, 75))
    assert as_25.tolist() != as_75.tolist()
    np.testing.assert_array_equal(detector(array, rate=75, model_index=1, confidence=0).scores, as_25)
    np.testing.assert_array_equal(detector(array, rate=25, model_index=2, confidence=0).scores, as_75)
    np.testing.assert_array_equal(detector(array, rate=75, model_index=9, confidence=0).scores, as_75)


def test_rate_may_be_left_out_where_there_is_one(tmp_path: Path) -> None:
    only = Detector.load(write_weights(tmp_path / "one.pth", rates=(50,)))
    assert only.rates == (50,)
    np.testing.assert_array_equal(only(latent()).boxes, only(latent(), rate=50).boxes)


@pytest.mark.parametrize(
    ("array", "keywords", "message"),
    [
        (np.zeros((8, 4, 4), np.float32), {}, "several rates: say which .*25, 75"),
        (np.zeros((8, 4, 4), np.float32), {"rate": 50}, "rate 50 is unknown to this model .*25, 75"),
        (np.zeros((9, 4, 4), np.float32), {"rate": 75}, r"latent 0: shape \[9, 4, 4\]; this model takes \[8, h, w\]"),
        (np.zeros((2, 8, 4, 4), np.float32), {"rate": 75}, "shape"),
        (np.zeros((8, 0, 4), np.float32), {"rate": 75}, "shape"),
        (np.full((8, 4, 4), np.nan, np.float32), {"rate": 75}, "NaN or infinite"),
    ],
)
def test_mistakes(detector: Detector, array: np.ndarray, keywords: dict, message: str) -> None:
    with pytest.raises(LatentFaceError, match=message):
        detector(array, **keywords)


def test_counts_have_to_agree(detector: Detector) -> None:
    with pytest.raises(LatentFaceError, match="2 rates for 1 latents"):
        detector([latent()], rate=[25, 75])


def test_network_has_to_agree(weights: Path) -> None:
    Detector.load(weights, network="light")
    with pytest.raises(LatentFaceError, match="holds a light, not a resnet50"):
        Detector.load(weights, network="resnet50")


def test_bare_state_dict_is_enough(weights: Path, tmp_path: Path, detector: Detector) -> None:
    """Statistics, rates and channel count travel in the state dict."""
    state = load_checkpoint(weights).state
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "bare.pth")
    bare = Detector.load(tmp_path / "bare.pth", network="light")
    np.testing.assert_array_equal(bare(latent(), rate=75).boxes, detector(latent(), rate=75).boxes)


def test_landmarks_that_were_never_taught_are_not_invented(weights: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(weights)
    save_checkpoint(tmp_path / "w.pth", checkpoint.build(), checkpoint.facts | {"landmarks": False})
    faces = Detector.load(tmp_path / "w.pth")(latent(), rate=75, confidence=0.3)
    assert len(faces) > 0
    assert np.isnan(faces.landmarks).all()


def test_public_names() -> None:
    assert sorted(latentface.__all__) == [
        "Detector", "Faces", "LatentFaceError", "NestedLatentWiderFaceDataset", "__version__", "collate",
    ]  # fmt: skip
    assert all(hasattr(latentface, name) for name in latentface.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        latentface.Detectr  # noqa: B018


def test_other_precisions_are_near(detector: Detector, weights: Path) -> None:
    """bfloat16 has 8 bits of mantissa: scores move, by little."""
    of_32 = detector(latent(), rate=75, confidence=0.0)
    of_16 = Detector.load(weights, device="cpu", precision="bfloat16")(latent(), rate=75, confidence=0.0)
    assert of_16.scores[0] == pytest.approx(of_32.scores[0], abs=0.02)
    assert of_16.scores[0] != of_32.scores[0]
    with pytest.raises(LatentFaceError, match="precision 'int4' is none of float32, bfloat16, float16"):
        Detector.load(weights, precision="int4")
